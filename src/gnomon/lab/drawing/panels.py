"""The picture of an experiment: mean accuracy of all arms against epochs, FLOPs or seconds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import wrap

import numpy as np

from gnomon.lab.drawing.colours import Ink, inks
from gnomon.lab.drawing.plots import FAINT, INK, STYLE, accuracy_scale, apart
from gnomon.lab.errors import MissingExtra
from gnomon.lab.results.curves import Band

try:
    from matplotlib import rc_context
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.backend_bases import RendererBase
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.offsetbox import AnnotationBbox, DrawingArea, HPacker, TextArea
    from matplotlib.ticker import EngFormatter, MaxNLocator
except ImportError as error:
    raise MissingExtra("Drawing curves", error.name) from None

LABELS = {
    "epoch": "epochs",
    "step": "training steps",
    "flops": "training FLOPs: forward + backward, all operations",
    "paper_flops": "FLOPs as in the papers: forward, convolutions, an image per step",
    "seconds": "seconds of computing",
}
# Inches: a panel alone, one of two, how high; left of it; between two; a line of the labels.
SINGLE, PAIR, HEIGHT, LEFT, BETWEEN, LABEL_HEIGHT = 6.6, 4.7, 3.7, 0.72, (0.3, 0.75), 0.205
DPI = 150
FEW = 5  # arms whose bands can be told apart
MANY = 80  # points beyond which a line is drawn thinner: it is noise then, not a trend
FOOT = "#6E6E6E"


@dataclass(frozen=True)
class Picture:
    """What is drawn. panels: the arms' bands by what x counts.

    printed: the source's figure per arm; given: arms that others start from.
    printed_as: what it is.
    aside:   a remark below a FLOPs axis; note: small print, the signature.
    """

    title: str
    panels: Mapping[str, Sequence[Band]]
    printed: Mapping[str, float] = field(default_factory=dict)
    printed_as: str = "validation accuracy"
    given: Sequence[str] = ()
    aside: str = ""
    note: str = ""


def draw(picture: Picture, path: Path) -> None:
    """Write it as `<path>.png` and `<path>.svg`; the same runs give the same files."""
    columns = min(2, len(picture.panels))
    rows = -(-len(picture.panels) // columns)
    first = next(iter(picture.panels.values()))
    chosen = inks([band.arm for band in first], picture.given)
    height = max(HEIGHT, LABEL_HEIGHT * (len(first) + 2))
    with rc_context({**STYLE, "svg.hashsalt": picture.title}):
        figure = Figure()
        labels = {band.arm: _label(band, chosen[band.arm], picture) for band in first}
        frame = _frame(figure, picture, labels.values(), (columns, rows), height)
        for place, (x, bands) in enumerate(picture.panels.items()):
            row, column = divmod(place, columns)
            axes = figure.add_axes(frame.place(row, column))
            _panel(axes, x, bands, chosen, picture)
            if column == 0:
                axes.set_ylabel("validation accuracy")
            else:
                axes.tick_params(labelleft=False)
            if column == columns - 1 or place == len(picture.panels) - 1:
                _names(axes, bands, chosen, picture, height)
        for suffix, metadata in (("png", {}), ("svg", {"Date": None})):
            target = path.with_name(f"{path.name}.{suffix}")
            figure.savefig(target, dpi=DPI, facecolor="white", metadata=metadata)


@dataclass(frozen=True)
class _Frame:
    """Where the panels lie, all in inches."""

    width: float
    height: float
    panel: tuple[float, float]
    left: float
    top: float

    def place(self, row: int, column: int) -> tuple[float, float, float, float]:
        """(left, bottom, width, height) of a panel as shares of the figure."""
        wide, high = self.panel
        left = self.left + column * (wide + BETWEEN[0])
        bottom = self.height - self.top - (row + 1) * high - row * BETWEEN[1]
        return left / self.width, bottom / self.height, wide / self.width, high / self.height


def _frame(
    figure: Figure,
    picture: Picture,
    labels: Iterable[HPacker],
    grid: tuple[int, int],
    height: float,
) -> _Frame:
    """Size the figure for its panels, its labels and its words, and write the words."""
    columns, rows = grid
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.set_dpi(100)
    margin = max(_wide(label, figure, renderer) for label in labels) / 100 + 0.5
    wide = SINGLE if columns == 1 else PAIR
    width = LEFT + columns * wide + (columns - 1) * BETWEEN[0] + margin
    title = wrap(picture.title, int(width * 9.2))
    small = [
        line
        for text in (_small_print(picture), picture.note)
        for line in wrap(text, int(width * 16), break_on_hyphens=False)
    ]
    top, bottom = 0.3 + 0.24 * len(title), 0.8 + 0.15 * len(small)
    whole = top + rows * height + (rows - 1) * BETWEEN[1] + bottom
    figure.set_size_inches(width, whole)
    figure.text(
        0.15 / width, 1 - 0.12 / whole, "\n".join(title), va="top", fontsize=12.5,
        fontweight="bold",
    )  # fmt: skip
    figure.text(
        0.15 / width, 0.1 / whole, "\n".join(small), va="bottom", fontsize=7.5, color=FOOT,
        linespacing=1.4,
    )  # fmt: skip
    return _Frame(width, whole, (wide, height), LEFT, top)


def _wide(label: HPacker, figure: Figure, renderer: RendererBase) -> float:
    """Width of a label in pixels at 100 dots per inch."""
    label.set_figure(figure)
    return float(label.get_bbox(renderer).width)


def _small_print(picture: Picture) -> str:
    bands = next(iter(picture.panels.values()))
    counts = sorted({band.n for band in bands})
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    parts = ["One seed" if counts[-1] == 1 else f"Mean over {seeds} seeds, band: 95 % interval"]
    if any(band.growths for band in bands):
        parts.append("diamond: the network grows")
    if not all(band.whole for band in bands):
        parts.append("open end: not finished")
    if picture.printed:
        parts.append(f"[..] and triangle: {picture.printed_as} as printed in the source")
    return "; ".join(parts) + "."


def _panel(
    axes: Axes, x: str, bands: Sequence[Band], chosen: Mapping[str, Ink], picture: Picture
) -> None:
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=3)
    accuracy_scale(axes, _range(next(iter(picture.panels.values()))))
    low, high = axes.get_ylim()
    axes.set_ylim(low, min(high, 1 + 0.02 * (1 - low)))
    axes.set_xlim(0, 1.01 * max(float(band.x[-1]) for band in bands) or 1)
    if x in ("flops", "paper_flops", "step"):
        axes.xaxis.set_major_formatter(EngFormatter(sep=" " if x != "step" else ""))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=x == "epoch"))
    aside = f"\n{picture.aside}" if picture.aside and x in ("flops", "paper_flops") else ""
    axes.set_xlabel(LABELS[x] + aside)
    for layer, band in enumerate(sorted(bands, key=lambda b: not chosen[b.arm].back), 2):
        _draw(axes, band, chosen[band.arm], layer, faint=len(bands) > FEW)


def _range(bands: Sequence[Band]) -> tuple[float, float]:
    """Leave out the first climb, which would press everything else against the ceiling."""
    late = [float(v) for band in bands for v in band.mean[len(band.mean) // 6 :]]
    ends = [float(band.mean[-1] + side * band.half[-1]) for band in bands for side in (-1, 1)]
    low = min(late)
    return max(min(ends), low - 0.5 * (max(late) - low), 0.0), min(1.0, max(*late, *ends))


def _draw(axes: Axes, band: Band, ink: Ink, layer: int, *, faint: bool) -> None:
    width = (1.4 if ink.back else 2.0) * (0.65 if len(band.x) > MANY else 1)
    low, high = np.clip((band.mean - band.half, band.mean + band.half), 0, 1)
    alpha = 0.05 if faint else 0.13
    axes.fill_between(band.x, low, high, color=ink.colour, alpha=alpha, linewidth=0, zorder=1)
    axes.plot(
        band.x, band.mean, color=ink.colour, linewidth=width, linestyle=ink.line, zorder=layer
    )
    axes.plot(
        band.x[-1:], band.mean[-1:], "o", color=ink.colour, markersize=4.5, zorder=layer + 20,
        markerfacecolor=ink.colour if band.whole else "white", clip_on=False,
    )  # fmt: skip
    seen = [(x, band.at(x)) for x in band.growths if band.at(x) >= axes.get_ylim()[0]]
    axes.plot(
        [x for x, _ in seen], [y for _, y in seen], "D", color=ink.colour, markersize=5.5,
        markeredgecolor="white", markeredgewidth=0.9, zorder=layer + 40, clip_on=False,
    )  # fmt: skip


def _names(
    axes: Axes, bands: Sequence[Band], chosen: Mapping[str, Ink], picture: Picture, inches: float
) -> None:
    """Name the arms beside the panel, each as near to its curve's end as the others let it be."""
    low, high = axes.get_ylim()
    beside = axes.get_yaxis_transform()
    ordered = sorted(bands, key=lambda band: float(band.mean[-1]))
    ends = [min(max(float(band.mean[-1]), low), high) for band in ordered]
    places = apart(ends, LABEL_HEIGHT / inches * (high - low), low, high)
    for band, end, place in zip(ordered, ends, places, strict=True):
        ink = chosen[band.arm]
        if band.x[-1] > 0.97 * axes.get_xlim()[1]:
            axes.plot(
                [1.024, 1.044], [end, place], color=ink.colour, linewidth=0.8, alpha=0.7,
                transform=beside, clip_on=False, zorder=1,
            )  # fmt: skip
        box = AnnotationBbox(
            _label(band, ink, picture), (1.05, place), xycoords=beside, frameon=False, pad=0,
            box_alignment=(0, 0.5), annotation_clip=False,
        )  # fmt: skip
        axes.add_artist(box)
        printed = picture.printed.get(band.arm)
        if printed is not None and low <= printed <= high:
            axes.plot(
                1.012, printed, "<", color=ink.colour, markerfacecolor="white", markersize=5,
                transform=beside, clip_on=False, zorder=60,
            )  # fmt: skip


def _label(band: Band, ink: Ink, picture: Picture) -> HPacker:
    value = f"{100 * band.mean[-1]:.1f}"
    if band.n > 1:
        value += f" ± {100 * band.half[-1]:.1f}"
    if not band.whole:
        value += " so far"
    if (printed := picture.printed.get(band.arm)) is not None:
        value += f"  [{100 * printed:.1f}]"
    name = {"color": ink.colour, "fontsize": 9.5, "fontweight": "normal" if ink.back else "bold"}
    figures = {"color": INK, "fontsize": 8.5}
    sample = DrawingArea(18, 8)
    sample.add_artist(
        Line2D([0, 18], [3.5, 3.5], color=ink.colour, linestyle=ink.line, linewidth=1.6)
    )
    parts: list[Artist] = [
        sample,
        TextArea(band.arm, textprops=name),
        TextArea(value, textprops=figures),
    ]
    return HPacker(children=parts, pad=0, sep=6, align="baseline")
