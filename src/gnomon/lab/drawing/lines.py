"""A picture of something measured over steps: a thin line per seed, a thick one for their mean."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from gnomon.lab.drawing.plots import COLOURS, FAINT, STYLE
from gnomon.lab.errors import MissingExtra

try:
    from matplotlib import rc_context
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator
except ImportError as error:
    raise MissingExtra("Drawing lines", error.name) from None


@dataclass(frozen=True)
class Lines:
    """One thing that was measured: per seed, a value after 0, 1, 2, ... steps."""

    label: str
    seeds: Sequence[Sequence[float]]

    @property
    def means(self) -> list[float]:
        """The mean over the seeds at each step."""
        return [mean(values) for values in zip(*self.seeds, strict=True)]


def lines(several: Sequence[Lines], path: Path, *, title: str, x: str, y: str) -> None:
    """Draw them into a PNG of 1350 x 675 pixels, each named where it ends."""
    with rc_context(STYLE):
        figure = Figure(figsize=(9, 4.5), layout="constrained")
        axes: Axes = figure.subplots()
        axes.grid(axis="y", color=FAINT, linewidth=0.8)
        axes.set_axisbelow(True)
        for line, ink in zip(several, COLOURS, strict=False):
            _draw(axes, line, ink)
        axes.set_xlim(0, len(several[0].means) - 1)
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        figure.suptitle(title, x=0.012, ha="left", fontsize=12.5, fontweight="bold")
        figure.savefig(path, dpi=150, facecolor="white")


def _draw(axes: Axes, line: Lines, ink: str) -> None:
    for values in line.seeds:
        axes.plot(range(len(values)), values, color=ink, linewidth=0.7, alpha=0.45)
    means = line.means
    axes.plot(range(len(means)), means, "o-", color=ink, linewidth=2.2, markersize=3.5)
    axes.annotate(
        line.label,
        (len(means) - 1, means[-1]),
        xytext=(9, 0),
        textcoords="offset points",
        va="center",
        color=ink,
        fontweight="bold",
        annotation_clip=False,
    )
