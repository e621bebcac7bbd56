"""The scratch frontier as a picture: a panel per question, all families against it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from gnomon.lab.drawing.colours import inks
from gnomon.lab.drawing.plots import FAINT, REFERENCE, STYLE
from gnomon.lab.errors import MissingExtra
from gnomon.lab.results.frontier import Family
from gnomon.lab.results.measures import Measure

try:
    from matplotlib import rc_context
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, MaxNLocator, NullLocator, PercentFormatter
except ImportError as error:
    raise MissingExtra("Drawing the frontier", error.name) from None

SCRATCH = "scratch"
MARKERS = "os^Dv<>"


def draw(
    panels: Mapping[str, Mapping[str, Family]],
    scratch: Family,
    small: Family | None,
    path: Path,
    measure: Measure,
) -> None:
    """Write `<path>.png` and `<path>.svg`: a panel per title, a line per name.

    small: the network that others are given, by itself.
    """
    with rc_context({**STYLE, "svg.hashsalt": path.name}):
        figure = Figure(figsize=(5.6 * len(panels), 4.8), layout="constrained")
        places = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, (title, several) in zip(places, panels.items(), strict=True):
            axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
            _panel(axes, several, scratch, measure)
            if small:
                _point(axes, small, measure)
            best = "lower right" if measure.sign > 0 else "upper right"
            axes.legend(frameon=False, loc=best, fontsize=9)
        places[0].set_ylabel(f"{measure.title} at the end of each training")
        for kind in ("png", "svg"):
            plain = {"Date": None} if kind == "svg" else None
            figure.savefig(f"{path}.{kind}", dpi=150, facecolor="white", metadata=plain)


def _panel(axes: Axes, several: Mapping[str, Family], scratch: Family, measure: Measure) -> None:
    axes.set_xscale("log", base=2)
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    ink = inks([SCRATCH, *several])
    _line(
        axes,
        measure,
        scratch,
        "scratch, each budget its own training",
        ink[SCRATCH].colour,
        "o",
        2.4,
    )
    for (name, one), marker in zip(several.items(), MARKERS, strict=False):
        _line(axes, measure, one, name, ink[name].colour, marker, 1.8)
    axes.set_xlabel("training compute, forward + backward (FLOPs)")
    ticks = sorted({float(f) for one in (scratch, *several.values()) for f in one.flops})
    axes.set_xticks([f for f in ticks if any(f == g for g in scratch.flops)])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(EngFormatter(places=1, sep=" "))
    axes.yaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    if measure.percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def _point(axes: Axes, small: Family, measure: Measure) -> None:
    """The small network by itself: an open circle, and how good it is along the whole axis."""
    value = measure.sign * float(small.accuracies.mean())
    axes.axhline(value, color=REFERENCE, linewidth=0.9, linestyle=(0, (2, 3)), zorder=1)
    axes.plot(
        small.flops, [value], "o", color=REFERENCE, markerfacecolor="white", markersize=6,
        label="the small network itself", zorder=1.5,
    )  # fmt: skip


def _line(
    axes: Axes, measure: Measure, one: Family, label: str, ink: str, marker: str, width: float
) -> None:
    means = measure.sign * one.accuracies.mean(axis=0)
    axes.plot(
        one.flops, means, marker=marker, color=ink, linewidth=width, markersize=5, label=label
    )
    if one.seeds > 1:
        error = one.accuracies.std(axis=0, ddof=1) / np.sqrt(one.seeds)
        axes.fill_between(
            one.flops, means - error, means + error, color=ink, alpha=0.15, linewidth=0
        )
