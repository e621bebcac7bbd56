"""Mean curves of arms over their seeds, with 95 % bands, on one grid per arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gnomon.lab.errors import LabError
from gnomon.lab.results.results import Trace, half_interval

Array = NDArray[np.float64]
AXES = ("epoch", "step", "flops", "paper_flops", "seconds")
GRID = 300  # points where the seeds of an arm were not measured at the same ones


@dataclass(frozen=True)
class Band:
    """Validation accuracy of an arm: its mean over n runs, and half of the 95 % interval.

    x, mean, half: one value per point; half is 0 for a single run.
    growths: where on x the network grew, in the mean over the runs.
    whole:   whether its runs are finished.
    """

    arm: str
    n: int
    whole: bool
    x: Array
    mean: Array
    half: Array
    growths: tuple[float, ...]

    def at(self, x: float) -> float:
        """The mean accuracy there."""
        return float(np.interp(x, self.x, self.mean))


def check_axis(x: str) -> str:
    """Return the name of an axis; LabError if nothing is counted under it."""
    if x not in AXES:
        raise LabError(f"Nothing can be drawn against '{x}': there are {', '.join(AXES)}.")
    return x


def bands(traces: Mapping[str, Mapping[int, Trace]], x: str) -> list[Band]:
    """One per arm that has runs, in their order."""
    return [band(arm, list(runs.values()), x) for arm, runs in traces.items() if runs]


def band(arm: str, runs: Sequence[Trace], x: str) -> Band:
    """The mean of the finished runs; as long as there are none, of what all others have reached.

    Runs that were measured at other points are put on a grid: straight between two measurements,
    the last value carried on.
    """
    check_axis(x)
    finished = [run for run in runs if run.result is not None]
    lines = [_line(run, x) for run in finished or runs]
    grid = _grid([at for at, _ in lines])
    if not finished:
        shortest = min(at[-1] for at, _ in lines)
        grid = grid[grid <= shortest]
    values = np.stack([np.interp(grid, at, accuracy) for at, accuracy in lines])
    n = len(lines)
    half = np.zeros(len(grid))
    if n > 1:
        half = half_interval(1.0, n) * values.std(axis=0, ddof=1)
    growths = _growths(finished or runs, x)
    return Band(arm, n, bool(finished), grid, values.mean(axis=0), half, growths)


def _line(run: Trace, x: str) -> tuple[Array, Array]:
    at = np.array([float(getattr(point, x)) for point in run.points])
    return at, np.array([point.accuracy for point in run.points])


def _grid(several: Sequence[Array]) -> Array:
    """The runs' own points where they agree, else evenly spaced ones over all of them."""
    longest = max(several, key=len)
    if all(np.array_equal(at, longest[: len(at)]) for at in several):
        return longest
    return np.linspace(min(at[0] for at in several), max(at[-1] for at in several), GRID)


def _growths(runs: Sequence[Trace], x: str) -> tuple[float, ...]:
    """Where the runs grew; the mean over those that grew as often as the first."""
    places = [sorted({float(getattr(g, x)) for g in run.growths}) for run in runs]
    alike = [p for p in places if len(p) == len(places[0])]
    return tuple(float(mean) for mean in np.mean(alike, axis=0)) if alike and alike[0] else ()
