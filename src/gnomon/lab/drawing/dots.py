"""The picture of a contest: each arm's accuracy on the test split beside what the source printed.

base        ·· ──●── ·           ◁ 70.0
search          ·──●── ··     ◁ 74.0        a point per seed, the mean with its 95 % interval
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gnomon.lab.drawing.plots import COLOURS, FAINT, INK, REFERENCE, STYLE
from gnomon.lab.errors import MissingExtra
from gnomon.lab.results.results import Estimate
from gnomon.lab.search.words import save, write_words

try:
    from matplotlib import rc_context
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter
except ImportError as error:
    raise MissingExtra("Drawing results", error.name) from None

WIDTH, ROW = 8.6, 0.42  # inches
PRINTED, OURS = COLOURS[0], COLOURS[1]


@dataclass(frozen=True)
class Row:
    """An arm: its accuracies, one per seed, as shares; printed: the source's figure."""

    name: str
    accuracies: Sequence[float]
    printed: float | None = None


def draw(rows: Sequence[Row], path: Path, *, title: str, note: str) -> None:
    """Write it as `<path>.png` and `<path>.svg`; the same results give the same files."""
    height = 1.75 + ROW * len(rows)
    with rc_context({**STYLE, "svg.hashsalt": title}):
        figure = Figure(figsize=(WIDTH, height))
        axes = figure.add_axes((0.31, 1.15 / height, 0.55, ROW * len(rows) / height))
        _frame(axes, rows)
        for place, row in enumerate(rows):
            _draw(axes, place, row)
        printed = "; triangle: as printed in the source" if any(r.printed for r in rows) else ""
        figure.text(
            0.15 / WIDTH, 0.55 / height, f"Points: seeds; bar: mean and 95 % interval{printed}.",
            fontsize=8, color=REFERENCE,
        )  # fmt: skip
        write_words(figure, title, note)
        save(figure, path)


def _frame(axes: Axes, rows: Sequence[Row]) -> None:
    axes.grid(axis="x", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), [row.name for row in rows], fontsize=9.5)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(*_range(rows))
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    axes.set_xlabel("accuracy on the test images")


def _range(rows: Sequence[Row]) -> tuple[float, float]:
    """All means, seeds and printed figures; an interval of two seeds may run out of it."""
    shown = [value for row in rows for value in row.accuracies]
    shown += [row.printed for row in rows if row.printed is not None]
    low, high = min(shown), max(shown)
    room = max(0.12 * (high - low), 0.002)
    return low - room, high + room


def _draw(axes: Axes, place: int, row: Row) -> None:
    found = Estimate.of(row.accuracies)
    assert found is not None  # a row has accuracies
    half = found.half or 0.0
    axes.plot(
        [found.mean - half, found.mean + half], [place, place], color=OURS, linewidth=2.2,
        solid_capstyle="butt", zorder=3,
    )  # fmt: skip
    axes.plot(
        row.accuracies, [place] * found.n, "o", color=OURS, alpha=0.35, markersize=4,
        markeredgewidth=0, zorder=4,
    )  # fmt: skip
    axes.plot(found.mean, place, "o", color=OURS, markersize=7, markeredgecolor="white", zorder=5)
    if row.printed is not None:
        axes.plot(
            row.printed, place, "<", color=PRINTED, markerfacecolor="white", markersize=7, zorder=6
        )
    axes.annotate(
        found.percent() + ("" if row.printed is None else f"  [{100 * row.printed:.0f}]"),
        (1.02, place), xycoords=axes.get_yaxis_transform(), va="center", fontsize=9, color=INK,
        annotation_clip=False,
    )  # fmt: skip
