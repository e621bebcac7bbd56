"""The picture of a lineage: who grew from whom, round by round, accuracy as colour."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from gnomon.lab.drawing.plots import INK, STYLE
from gnomon.lab.errors import MissingExtra
from gnomon.lab.search.lanes import ancestry, bands
from gnomon.lab.search.news import Row, Told
from gnomon.lab.search.words import save, write_words

try:
    from matplotlib import colormaps, rc_context
    from matplotlib.axes import Axes
    from matplotlib.colors import LinearSegmentedColormap, Normalize
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Curve
    from matplotlib.ticker import MaxNLocator, PercentFormatter
except ImportError as error:
    raise MissingExtra("Drawing a search", error.name) from None

EDGE, CHOSEN, BAND = "#B9BEC4", "#D55E00", "#F5F6F7"
MOVED, MOVED_INK = (0, (3.5, 2)), "#7E858C"  # the way of a copy
LANE = 0.36  # inches between two lanes
WIDEST, NARROWEST = 0.95, 0.16  # inches between two rounds
WHOLE = 12.0  # inches of all rounds together, where there are many
NAMED = 0.42  # inches between two rounds from which on ids can be read
LEFT, RIGHT, TOP, BOTTOM = 0.2, 0.95, 0.72, 1.36
LABEL = 0.25  # inches for the islands' numbers
TICKS = 16  # at the most


def draw_tree(history: Sequence[Told], path: Path, *, title: str, note: str) -> None:
    """Write it as `<path>.png` and `<path>.svg`; the same rounds give the same files."""
    places, islands = bands(history)
    gap = max(NARROWEST, min(WIDEST, WHOLE / max(1, len(history) - 1)))
    count = max(2, islands[-1][1] + 1)
    wide = max(5.4, gap * len(history))
    left = LEFT if len(islands) == 1 else LEFT + LABEL
    width, height = left + wide + RIGHT, TOP + LANE * count + BOTTOM
    with rc_context({**STYLE, "svg.hashsalt": title}):
        figure = Figure(figsize=(width, height))
        axes = figure.add_axes((left / width, BOTTOM / height, wide / width, LANE * count / height))
        axes.set_xlim(history[0].round - 0.5, history[0].round - 0.5 + wide / gap)
        axes.set_ylim(count - 0.5, -0.5)
        _frame(axes, history)
        if len(islands) > 1:
            _islands(axes, history[0].round, islands)
        scale, shades = _scale(history)
        _draw(axes, history, places, scale, shades, named=gap >= NAMED)
        _key(figure, scale, shades, (width, height))
        write_words(figure, title, note)
        _legend(figure, (width, height), islands=len(islands) > 1)
        save(figure, path)


def _frame(axes: Axes, history: Sequence[Told]) -> None:
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    first, last = history[0].round, history[-1].round
    axes.set_xticks(range(first, last + 1, -(-(last + 1 - first) // TICKS)))
    axes.spines["bottom"].set_bounds(first, max(last, first + 1))
    axes.tick_params(length=3)
    axes.annotate(
        "round", (first, 0), xycoords=axes.get_xaxis_transform(), xytext=(0, -20),
        textcoords="offset points", ha="center", va="top",
    )  # fmt: skip


def _islands(axes: Axes, first: int, islands: Sequence[tuple[int, int]]) -> None:
    """A band behind each, and its number on the left."""
    for number, (top, bottom) in enumerate(islands, 1):
        axes.axhspan(top - 0.5, bottom + 0.5, color=BAND, linewidth=0, zorder=0)
        axes.annotate(
            f"island {number}", (0, (top + bottom) / 2), xycoords=axes.get_yaxis_transform(),
            xytext=(-8, 0), textcoords="offset points", rotation=90, ha="right", va="center",
            fontsize=9,
        )  # fmt: skip


def _scale(history: Sequence[Told]) -> tuple[Normalize, LinearSegmentedColormap]:
    """Shades from light to dark; the few that are far below the others all get the lightest."""
    values = [row.accuracy for told in history for row in told.rows]
    low, high = float(np.quantile(values, 0.1)), max(values)
    if high - low < 1e-6:
        low = high - 0.01
    steps = colormaps["viridis_r"](np.linspace(0.03, 0.92, 256))
    return Normalize(low, high, clip=True), LinearSegmentedColormap.from_list("accuracy", steps)


def _draw(
    axes: Axes,
    history: Sequence[Told],
    places: Sequence[dict[tuple[int, int], int]],
    scale: Normalize,
    shades: LinearSegmentedColormap,
    *,
    named: bool,
) -> None:
    path = ancestry(history, history[-1].best.key)
    born = {row.key: row.born for told in history for row in told.rows}
    # The way to the best one leaves a member in the round before its next one was born.
    until = {a: born[b] - 1 for a, b in pairwise(path)} | {path[-1]: history[-1].round}
    for i, told in enumerate(history):
        for row in told.rows:
            here = (told.round, places[i][row.key])
            bold = row.key in until
            if row.born < told.round:
                before = (history[i - 1].round, places[i - 1][row.key])
                _live(axes, here, before, bold=bold and told.round <= until[row.key])
            elif row.before is not None:
                _birth(axes, i, row, here, history, places, bold=bold)
            colour = shades(scale(row.accuracy))
            ring = CHOSEN if row.selected is not None else "white"
            axes.plot(
                *here, "o", markersize=13 if named else 7, color=colour, markeredgecolor=ring,
                markeredgewidth=1.9 if named else 1.2, zorder=10, clip_on=False,
            )  # fmt: skip
            if named:
                bright = float(np.dot(colour[:3], (0.3, 0.59, 0.11))) > 0.55
                axes.text(
                    *here, str(row.id), ha="center", va="center_baseline", zorder=11,
                    fontsize=6.3, color=INK if bright else "white",
                )  # fmt: skip


def _live(
    axes: Axes, here: tuple[float, float], before: tuple[float, float], *, bold: bool
) -> None:
    """A member that lives on."""
    axes.plot(
        [before[0], here[0]], [before[1], here[1]], color=CHOSEN if bold else EDGE,
        linewidth=2.6 if bold else 2.0, zorder=4 if bold else 2, solid_capstyle="butt",
    )  # fmt: skip


def _birth(
    axes: Axes,
    number: int,
    row: Row,
    here: tuple[float, float],
    history: Sequence[Told],
    places: Sequence[dict[tuple[int, int], int]],
    *,
    bold: bool,
) -> None:
    """From its parent in the round before, or in the same one: then a bow on the left.

    A copy comes from another island with a dashed line.
    """
    assert row.before is not None
    before = places[number - 1] if number else {}
    x, y = here
    if row.before in before:
        start: tuple[float, float] = (history[number - 1].round, before[row.before])
        middle = (x + start[0]) / 2 + 0.12
        corners = [start, (middle, start[1]), (middle, y), (x, y)]
    else:
        start = (x, places[number][row.before])
        bow = x - 0.34 - 0.03 * min(4, abs(y - start[1]))
        corners = [start, (bow, start[1]), (bow, y), (x, y)]
    codes = [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4]
    axes.add_patch(
        PathPatch(
            Curve(corners, codes),
            fill=False,
            edgecolor=CHOSEN if bold else EDGE if row.origin is None else MOVED_INK,
            linewidth=1.8 if bold else 0.9,
            linestyle="-" if row.origin is None else MOVED,
            zorder=5 if bold else 3,
            clip_on=False,
        )
    )


def _key(
    figure: Figure,
    scale: Normalize,
    shades: LinearSegmentedColormap,
    size: tuple[float, float],
) -> None:
    """The colours of the accuracies, on the right."""
    width, height = size
    tall = min(height - TOP - BOTTOM, 2.6)
    lowest, highest = float(scale.vmin or 0), float(scale.vmax or 1)
    bar = figure.add_axes(
        ((width - 0.72) / width, (height - TOP - tall) / height, 0.12 / width, tall / height)
    )
    bar.imshow(
        np.linspace(0, 1, 256)[:, None], aspect="auto", cmap=shades, origin="lower",
        extent=(0, 1, lowest, highest),
    )  # fmt: skip
    bar.set_xticks([])
    bar.yaxis.tick_right()
    span = highest - lowest
    bar.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0 if span > 0.05 else 1))
    bar.yaxis.set_major_locator(MaxNLocator(4))
    bar.tick_params(length=2, labelsize=7.5)
    for spine in bar.spines.values():
        spine.set_visible(False)
    figure.text(
        (width - 0.72) / width, (height - TOP + 0.09) / height, "validation", fontsize=7.5,
        va="bottom",
    )  # fmt: skip


def _legend(figure: Figure, size: tuple[float, float], *, islands: bool) -> None:
    width, height = size
    # fmt: off
    entries = [
        Line2D(
            [], [], marker="o", linestyle="", markersize=8, color="#9FA5AC",
            markeredgecolor=CHOSEN, markeredgewidth=1.7,
        ),
        Line2D([], [], color=EDGE, linewidth=2.4),
        Line2D([], [], color=EDGE, linewidth=1.0),
        Line2D([], [], color=CHOSEN, linewidth=2.2),
    ]
    # fmt: on
    names = ["selected", "lives on", "grew from", "to the best"]
    if islands:
        entries.append(Line2D([], [], color=MOVED_INK, linewidth=1.0, linestyle=MOVED))
        names.append("copied from another island")
    figure.legend(
        entries, names, loc="lower left", bbox_to_anchor=(0.1 / width, 0.56 / height), ncols=5,
        frameon=False, fontsize=8.5, handlelength=1.6, columnspacing=1.6, borderaxespad=0,
    )  # fmt: skip
