"""Pictures of weights: the filters of a first layer side by side, and histograms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gnomon.lab.drawing.colours import GREY, OTHERS, inks
from gnomon.lab.drawing.plots import FAINT, INK, STYLE
from gnomon.lab.errors import LabError, MissingExtra
from gnomon.lab.training.probes import Histogram

try:
    from matplotlib import rc_context
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullLocator, PercentFormatter
except ImportError as error:
    raise MissingExtra("Drawing weights", error.name) from None

COLUMNS = 8
GAP, GROWN_GAP = 1, 3  # pixels of a filter between two of them, and above the new ones
LEAST = 1e-4  # where the bars of shares begin
LOUDEST = 0.995  # the share of entries that the colours cover; a few outliers would dim the rest


@dataclass(frozen=True)
class Filters:
    """The kernels of a first layer, (N, 3 or 1, height, width); the first `old` of them are old."""

    label: str
    kernels: Tensor
    old: int

    def __post_init__(self) -> None:
        if self.kernels.dim() != 4 or self.kernels.shape[1] not in (1, 3):
            raise LabError(
                f"Filters of shape {tuple(self.kernels.shape)} cannot be shown as colours: they "
                f"must read one channel or three."
            )


def filter_grids(
    panels: Sequence[Sequence[Filters]], path: Path, *, title: str, rows: Sequence[str]
) -> None:
    """Draw panels of filters into a PNG: a row per moment, a column per method.

    Grey is zero. All filters of a panel share one scale, so that faint ones look faint.
    """
    wide, high = len(panels[0]), len(panels)
    with rc_context(STYLE):
        figure = Figure(figsize=(3.3 * wide + 0.5, 1.9 * high + 0.75), layout="constrained")
        grid = figure.subplots(high, wide, squeeze=False, gridspec_kw={"wspace": 0.06})
        for across, row, name in zip(grid, panels, rows, strict=True):
            for axes, filters in zip(across, row, strict=True):
                _mosaic(axes, filters)
            across[0].set_ylabel(name, fontsize=9)
        for axes, filters in zip(grid[0], panels[0], strict=True):
            axes.set_title(filters.label, fontsize=11, fontweight="bold")
        figure.suptitle(title, x=0.012, ha="left", fontsize=12.5, fontweight="bold")
        figure.supxlabel(
            "old filters above, new ones below; grey is zero, one scale per panel",
            x=0.012, ha="left", fontsize=8, color=GREY,
        )  # fmt: skip
        figure.savefig(path, dpi=150, facecolor="white")


def _mosaic(axes: Axes, filters: Filters) -> None:
    axes.imshow(mosaic(filters), interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def mosaic(filters: Filters) -> NDArray[np.float64]:
    """All filters as one image, (height, width, 3) from 0 to 1, white between them."""
    colours = _colours(filters.kernels)
    old, new = colours[: filters.old], colours[filters.old :]
    parts = [_tiled(old), _tiled(new)] if len(new) else [_tiled(old)]
    gap = np.ones((GROWN_GAP, parts[0].shape[1], 3))
    return np.concatenate([parts[0], *(piece for part in parts[1:] for piece in (gap, part))])


def _colours(kernels: Tensor) -> NDArray[np.float64]:
    """(N, height, width, 3) from 0 to 1: grey is zero."""
    values = kernels.detach().double().cpu().movedim(1, -1).numpy()
    loudest = float(np.quantile(np.abs(values), LOUDEST)) or 1.0
    colours = np.clip(0.5 + 0.5 * values / loudest, 0, 1)
    return np.broadcast_to(colours, (*colours.shape[:3], 3)) if colours.shape[3] == 1 else colours


def _tiled(colours: NDArray[np.float64]) -> NDArray[np.float64]:
    """Filters in rows of `COLUMNS`, with gaps between them."""
    count, height, width, _ = colours.shape
    rows = -(-count // COLUMNS)
    canvas = np.ones((rows * (height + GAP) - GAP, COLUMNS * (width + GAP) - GAP, 3))
    for i, filter in enumerate(colours):
        top, left = (i // COLUMNS) * (height + GAP), (i % COLUMNS) * (width + GAP)
        canvas[top : top + height, left : left + width] = filter
    return canvas


def histogram_panels(panels: Mapping[str, Histogram], path: Path, *, title: str) -> None:
    """Draw histograms side by side into a PNG, each on its own axis, named by its method."""
    with rc_context(STYLE):
        figure = Figure(figsize=(4.5 * len(panels), 3.4), layout="constrained")
        several = figure.subplots(1, len(panels), squeeze=False)[0]
        colours = inks(list(panels))
        for axes, (label, found) in zip(several, panels.items(), strict=True):
            _bars(axes, label, found, colours[label].colour)
        several[0].set_ylabel("share of the entries")
        figure.suptitle(title, x=0.012, ha="left", fontsize=12.5, fontweight="bold")
        figure.savefig(path, dpi=150, facecolor="white")


def _bars(axes: Axes, label: str, found: Histogram, ink: str) -> None:
    total = sum(found.counts)
    edges, shares = np.asarray(found.edges), np.asarray(found.counts) / total
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.bar(edges[:-1], shares, np.diff(edges), align="edge", color=ink, linewidth=0)
    axes.set_title(label, loc="left", fontsize=11, fontweight="bold", color=ink)
    axes.set_title(f"{found.zeros / total:.0%} are zero", loc="right", fontsize=9, color=INK)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlim(edges[0], edges[-1])
    axes.set_xlabel("weight")


def share_bars(
    rows: Mapping[str, Sequence[float]], labels: Sequence[str], path: Path, *, title: str
) -> None:
    """Draw shares as bars on a logarithmic axis into a PNG: a group per row, a bar per label.

    rows: shares from 0 to 1 per name; nan is "none".
    """
    colours = (GREY, *OTHERS)
    with rc_context(STYLE):
        figure = Figure(figsize=(11, 4.4), layout="constrained")
        axes: Axes = figure.subplots()
        axes.grid(axis="y", color=FAINT, linewidth=0.8)
        axes.set_axisbelow(True)
        width = 0.8 / len(labels)
        for i, (label, ink) in enumerate(zip(labels, colours, strict=False)):
            places = np.arange(len(rows)) + (i - (len(labels) - 1) / 2) * width
            for j, (place, shares) in enumerate(zip(places, rows.values(), strict=True)):
                _bar(axes, place, shares[i], 0.9 * width, ink, label if j == 0 else None)
        axes.set_xticks(range(len(rows)), list(rows), fontsize=8.5)
        axes.tick_params(axis="x", length=0)
        axes.set_yscale("log")
        axes.set_ylim(LEAST, 1.5)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g}%"))
        axes.yaxis.set_minor_locator(NullLocator())
        figure.suptitle(title, x=0.012, ha="left", fontsize=12.5, fontweight="bold")
        figure.legend(loc="outside lower left", ncols=len(labels), frameon=False, fontsize=9)
        figure.savefig(path, dpi=150, facecolor="white")


def _bar(axes: Axes, place: float, share: float, width: float, ink: str, label: str | None) -> None:
    known = share == share
    top = share if known else LEAST
    axes.bar(place, top, width, color=ink, label=label, linewidth=0)
    text = f"{100 * share:.2g}" if share < 0.995 else "100"
    axes.annotate(
        text if known else "none", (place, top), (0, 2), textcoords="offset points",
        ha="center", fontsize=8, color=ink,
    )  # fmt: skip
