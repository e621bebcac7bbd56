"""Pictures of a search beside its tree: accuracy against FLOPs; sizes and widths over rounds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gnomon.lab.drawing.colours import OTHERS
from gnomon.lab.drawing.plots import FAINT, INK, STYLE, accuracy_scale, apart
from gnomon.lab.errors import MissingExtra
from gnomon.lab.search.news import Row, Told
from gnomon.lab.search.words import save, write_words

try:
    from matplotlib import rc_context
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patheffects import withStroke
    from matplotlib.ticker import EngFormatter, MaxNLocator
except ImportError as error:
    raise MissingExtra("Drawing a search", error.name) from None

CHOSEN, ALIVE, GONE = "#D55E00", "#0072B2", "#C9CDD2"


def draw_front(history: Sequence[Told], path: Path, *, title: str, note: str) -> None:
    """Every member there was, as it stood when it was last told: accuracy against forward FLOPs."""
    last = {row.key: row for told in history for row in told.rows}
    alive = {row.key for row in history[-1].rows}
    with rc_context({**STYLE, "svg.hashsalt": title}):
        figure = Figure(figsize=(7.4, 4.9))
        axes = figure.add_axes((0.1, 0.2, 0.86, 0.66))
        _grid(axes)
        rows = list(last.values())
        _accuracies(axes, rows)
        axes.set_xlim(*_room([row.flops for row in rows]))
        axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.set_xlabel("FLOPs of one image, forward (a multiply-add counts 2)")
        axes.set_ylabel("validation accuracy")
        front = _front(rows)
        axes.plot(
            [row.flops for row in front], [row.accuracy for row in front], color=INK,
            linewidth=1.0, linestyle=(0, (4, 2)), zorder=3, label="nobody better for less",
            drawstyle="steps-post",
        )  # fmt: skip
        gone = [row for row in rows if row.key not in alive]
        _dots(axes, gone, GONE, "no longer alive", 5.0)
        living = [row for row in rows if row.key in alive and row.selected is None]
        _dots(axes, living, ALIVE, "alive at the end", 6.5)
        _dots(axes, [r for r in rows if r.key in alive and r.selected], CHOSEN, "selected", 7.5)
        _label(axes, rows[0], "base")
        if (best := history[-1].best).before is not None:
            _label(axes, best, f"best: {best.accuracy:.1%}")
        _words(figure, axes, title, note)
        save(figure, path)


def draw_sizes(history: Sequence[Told], path: Path, *, title: str, note: str) -> None:
    """Parameters of the population, and the channels of each round's best member."""
    with rc_context({**STYLE, "svg.hashsalt": title}):
        figure = Figure(figsize=(11.4, 4.5))
        left = figure.add_axes((0.066, 0.2, 0.385, 0.575))
        right = figure.add_axes((0.515, 0.2, 0.345, 0.575))
        for axes in (left, right):
            _grid(axes)
            axes.xaxis.set_major_locator(MaxNLocator(9, integer=True))
            axes.set_xlabel("round")
        _parameters(left, history)
        _channels(right, history)
        _words(figure, left, title, note)
        save(figure, path)


def _parameters(axes: Axes, history: Sequence[Told]) -> None:
    x = [told.round for told in history]
    sizes = [[row.parameters for row in told.rows] for told in history]
    axes.fill_between(
        x, [min(s) for s in sizes], [max(s) for s in sizes], color=ALIVE, alpha=0.13, linewidth=0,
        label="population",
    )  # fmt: skip
    axes.plot(
        x, [told.held for told in history], color=INK, linewidth=1.2, linestyle=(0, (4, 2)),
        label="all, each shared one once",
    )  # fmt: skip
    picked = [(told.round, row.parameters) for told in history for row in told.rows if row.selected]
    axes.plot(
        *zip(*picked, strict=True), "o", color=CHOSEN, markersize=5.5, markeredgecolor="white",
        markeredgewidth=0.8, linestyle="", label="selected", zorder=5,
    )  # fmt: skip
    axes.plot(
        x, [told.best.parameters for told in history], color=CHOSEN, linewidth=1.8, zorder=4,
        label="the best one",
    )  # fmt: skip
    axes.set_ylim(0, 1.06 * max(told.held for told in history))
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_title("parameters", loc="left", fontsize=10)


def _channels(axes: Axes, history: Sequence[Told]) -> None:
    """Stacked, each part of the network named beside its end."""
    x = [told.round for told in history]
    best = [told.best.widths for told in history]
    parts = list(dict.fromkeys(part for widths in best for part in widths))
    stacks = [[widths.get(part, 0) for widths in best] for part in parts]
    if len(x) == 1:
        x, stacks = [x[0], x[0] + 1], [[s[0], s[0]] for s in stacks]
    inks = [OTHERS[i % len(OTHERS)] for i in range(len(parts))]
    axes.stackplot(x, stacks, colors=inks, alpha=0.75, linewidth=0.8, edgecolor="white")
    total = sum(stack[-1] for stack in stacks)
    highest = max(sum(column) for column in zip(*stacks, strict=True))
    axes.set_ylim(0, 1.06 * highest)
    axes.set_xlim(x[0], x[-1])
    axes.set_title("channels of each round's best member", loc="left", fontsize=10)
    middles, below = [], 0.0
    for stack in stacks:
        middles.append(below + stack[-1] / 2)
        below += stack[-1]
    heights = apart(middles, 0.065 * 1.06 * highest, 0, max(total, 1))
    for part, stack, ink, height in zip(parts, stacks, inks, heights, strict=True):
        axes.annotate(
            f"{part}: {stack[-1]}", (x[-1], height), xytext=(7, 0), textcoords="offset points",
            va="center", fontsize=8.5, color=ink, fontweight="bold", annotation_clip=False,
        )  # fmt: skip


def _front(rows: Sequence[Row]) -> list[Row]:
    """Members than which nobody is better with as few FLOPs, cheapest first."""
    found: list[Row] = []
    for row in sorted(rows, key=lambda r: (r.flops, -r.accuracy)):
        if not found or row.accuracy > found[-1].accuracy:
            found.append(row)
    return found


def _accuracies(axes: Axes, rows: Sequence[Row]) -> None:
    values = [row.accuracy for row in rows]
    accuracy_scale(axes, (min(values), max(values)))
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.06 * (high - low))  # for the name of the best


def _room(values: Sequence[int]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.06 * ((high - low) or high)
    return low - margin, high + 1.6 * margin


def _dots(axes: Axes, rows: Sequence[Row], colour: str, label: str, size: float) -> None:
    axes.plot(
        [row.flops for row in rows], [row.accuracy for row in rows], "o", color=colour,
        markersize=size, markeredgecolor="white", markeredgewidth=0.8, linestyle="", label=label,
        zorder=4 + size / 10, clip_on=False,
    )  # fmt: skip


def _label(axes: Axes, row: Row, text: str) -> None:
    axes.annotate(
        text, (row.flops, row.accuracy), xytext=(0, 8), fontsize=9,
        textcoords="offset points", ha="center", va="bottom",
        fontweight="bold", zorder=9,
        path_effects=[withStroke(linewidth=3, foreground="white")],
    )  # fmt: skip


def _grid(axes: Axes) -> None:
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=3)


def _words(figure: Figure, axes: Axes, title: str, note: str) -> None:
    width, height = figure.get_size_inches()
    write_words(figure, title, note)
    figure.legend(
        *axes.get_legend_handles_labels(), loc="upper left", ncols=4, frameon=False, fontsize=8.5,
        bbox_to_anchor=(0.1 / width, 1 - 0.4 / height), borderaxespad=0, handlelength=1.6,
        columnspacing=1.6,
    )  # fmt: skip
