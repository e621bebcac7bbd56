"""Pictures of a run: validation accuracy against steps and against training compute."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gnomon.lab.errors import MissingExtra

try:
    from matplotlib import rc_context
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patheffects import withStroke
    from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter
except ImportError as error:
    raise MissingExtra("Drawing curves", error.name) from None

# Okabe and Ito's colours, told apart by colour-blind eyes; the reference arm stays in the back.
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7")
REFERENCE = "#8C8C8C"
NOTE_WIDTH = 150  # characters of small print across the picture
INK, FAINT = "#333333", "#E6E6E6"

STYLE = {
    "font.size": 10,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
}


@dataclass(frozen=True)
class Point:
    """Accuracy (0 to 1) after so many steps and training FLOPs."""

    step: int
    flops: int
    accuracy: float


@dataclass(frozen=True)
class Mark:
    """Something that happened to an arm between two epochs."""

    step: int
    flops: int
    label: str


@dataclass(frozen=True)
class Curve:
    """One arm of a comparison; a `reference` is drawn grey and thin, behind the others."""

    label: str
    points: Sequence[Point]
    marks: Sequence[Mark] = ()
    reference: bool = False


def curves(arms: Sequence[Curve], path: Path, *, title: str, note: str, budget: int) -> None:
    """Draw all arms against steps (left) and FLOPs (right) into a PNG of 1650 x 690 pixels.

    note: small print below the panels (the signature); budget: FLOPs at which the arms compare.
    """
    colours = iter(COLOURS)
    inked = [(arm, REFERENCE if arm.reference else next(colours)) for arm in arms]
    with rc_context(STYLE):
        figure = Figure(figsize=(11, 4.6), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        _accuracy_axis(left, arms)
        _panel(left, inked, lambda at: at.step)
        _panel(right, inked, lambda at: at.flops)
        left.set_xlabel("training steps")
        right.set_xlabel("training compute, forward + backward (FLOPs)")
        right.xaxis.set_major_formatter(EngFormatter(sep=" "))
        _names(left, inked)
        _budget(right, budget)
        figure.suptitle(title, x=0.012, ha="left", fontsize=12.5, fontweight="bold")
        figure.supxlabel(_in_lines(note), x=0.012, ha="left", fontsize=7, color=REFERENCE)
        figure.savefig(path, dpi=150, facecolor="white")


def _in_lines(note: str) -> str:
    """Break a long signature behind one of its bars."""
    if len(note) <= NOTE_WIDTH:
        return note
    cut = note.rfind("|", 0, NOTE_WIDTH) + 1 or NOTE_WIDTH
    return f"{note[:cut]}\n{_in_lines(note[cut:])}"


Inked = Sequence[tuple[Curve, str]]


def _accuracy_axis(axes: Axes, arms: Sequence[Curve]) -> None:
    """Leave out the first climb, which would press everything else against the ceiling."""
    late = [p.accuracy for arm in arms for p in arm.points[len(arm.points) // 6 :]]
    accuracy_scale(axes, (min(late), max(late)))
    axes.set_ylabel("validation accuracy")


def accuracy_scale(axes: Axes, shown: tuple[float, float]) -> None:
    """Make room for accuracies from the first to the second, with a few round percentages."""
    low, high = shown
    room = max(0.08 * (high - low), 0.005)
    axes.set_ylim(low - 2 * room, high + room)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))


def _panel(axes: Axes, inked: Inked, x: Callable[[Point | Mark], int]) -> None:
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=3)
    axes.set_xlim(0, 1.01 * max(x(arm.points[-1]) for arm, _ in inked))
    for arm, ink in inked:
        xs, ys = [x(point) for point in arm.points], [point.accuracy for point in arm.points]
        width, layer = (1.4, 2) if arm.reference else (2.2, 3)
        axes.plot(xs, ys, color=ink, linewidth=width, zorder=layer, solid_capstyle="round")
        axes.plot(
            xs[-1:], ys[-1:], "o", color=ink, markersize=2.5 * width, zorder=layer, clip_on=False
        )
        for mark in arm.marks:
            axes.axvline(x(mark), color=ink, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
            _below(axes, x(mark), f" {mark.label}", ink)


def _below(axes: Axes, x: float, label: str, ink: str, *, row: int = 0, side: str = "left") -> None:
    """Write beside a vertical line, low in the panel where training curves seldom are."""
    axes.text(
        x,
        0.03 + 0.07 * row,
        label,
        transform=axes.get_xaxis_transform(),
        ha=side,
        color=ink,
        path_effects=[withStroke(linewidth=3, foreground="white")],
        zorder=4,
    )


def _names(axes: Axes, inked: Inked) -> None:
    """Name the arms where their curves end, pushed apart so that no name covers another."""
    low, high = axes.get_ylim()
    ends = sorted(inked, key=lambda pair: pair[0].points[-1].accuracy)
    heights = [arm.points[-1].accuracy for arm, _ in ends]
    places = apart(heights, 0.07 * (high - low), low, high)
    for (arm, ink), height in zip(ends, places, strict=True):
        last = arm.points[-1]
        axes.annotate(
            f"{arm.label}  {last.accuracy:.1%}",
            (last.step, height),
            xytext=(9, 0),
            textcoords="offset points",
            va="center",
            color=ink,
            fontweight="normal" if arm.reference else "bold",
            annotation_clip=False,
        )


def apart(heights: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Push ascending heights to a distance and between two bounds, as little as that takes.

    Those that are too close make a pile, centred on their mean; piles that touch become one.
    """
    piles: list[tuple[float, int]] = []  # (lowest place, how many)
    for height in heights:
        piles.append((height, 1))
        while True:
            start, count = piles[-1]
            start = min(max(start, low), max(low, high - (count - 1) * gap))
            piles[-1] = start, count
            if len(piles) == 1 or start >= piles[-2][0] + piles[-2][1] * gap:
                break
            below, under = piles[-2]
            middle = (
                under * (below + (under - 1) * gap / 2) + count * (start + (count - 1) * gap / 2)
            ) / (under + count)
            piles[-2:] = [(middle - (under + count - 1) * gap / 2, under + count)]
    return [start + i * gap for start, count in piles for i in range(count)]


def _budget(axes: Axes, budget: int) -> None:
    """Mark the FLOPs at which the arms are compared."""
    axes.axvline(budget, color=INK, linewidth=1, linestyle=(0, (1, 2)), zorder=1)
    _below(axes, budget, "equal compute ", INK, row=1, side="right")
