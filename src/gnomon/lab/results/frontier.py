"""The scratch frontier: the best accuracy that training from scratch reaches for each budget.

Growing is worth it only against this opponent: every budget of FLOPs has a training of its own,
with its own length of schedule. A *family* is one way to train at several budgets; its curve runs
through the mean accuracies over seeds, never downwards (whoever has more may stop earlier).

    cost of an accuracy   the FLOPs at which a curve reaches it, straight between budgets in log2
    ratio                 a family's cost over the frontier's cost of the same accuracy
    lead                  a family's accuracy minus the frontier's at the same FLOPs

Intervals are of 95 %: of a ratio from resampling the seeds, the same ones for both sides; of a lead
Student's, over the differences between runs of the same seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf, log2

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t

from gnomon.lab.errors import LabError

Array = NDArray[np.float64]
RESAMPLED = 2000


@dataclass(frozen=True)
class Family:
    """One way to train: flops (budgets,), ascending; accuracies (seeds, budgets); which seeds."""

    name: str
    flops: Array
    accuracies: Array
    which: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.accuracies.shape[1:] != self.flops.shape or not len(self.accuracies):
            raise LabError(f"The family '{self.name}' lacks runs: every budget needs every seed.")
        if (np.diff(self.flops) <= 0).any():
            raise LabError(f"The budgets of the family '{self.name}' must ascend.")

    @property
    def seeds(self) -> int:
        """How many runs stand behind each mean."""
        return len(self.accuracies)

    def of(self, seeds: Sequence[int]) -> Family:
        """The runs of these seeds alone."""
        rows = [self.which.index(seed) for seed in seeds]
        return replace(self, accuracies=self.accuracies[rows], which=tuple(seeds))

    def curve(self, seeds: NDArray[np.intp] | None = None) -> Array:
        """Mean accuracy per budget over these seeds, never falling."""
        chosen = self.accuracies if seeds is None else self.accuracies[seeds]
        return np.maximum.accumulate(chosen.mean(axis=0))

    def envelope(self) -> Array:
        """Accuracies (seeds, budgets), at each budget those of the best budget up to it."""
        means = self.accuracies.mean(axis=0)
        best = [int(np.argmax(means[: i + 1])) for i in range(len(means))]
        return self.accuracies[:, best]


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval; infinite where a curve never gets there."""

    value: float
    low: float
    high: float


def family(name: str, runs: Mapping[tuple[int, int], float]) -> Family:
    """Build a family of {(flops, seed): accuracy}. Raises LabError if a run is missing."""
    flops = sorted({f for f, _ in runs})
    seeds = sorted({s for _, s in runs})
    missing = [(f, s) for f in flops for s in seeds if (f, s) not in runs]
    if missing or not runs:
        raise LabError(f"The family '{name}' lacks runs (FLOPs, seed): {missing[:4]}.")
    table = np.array([[runs[f, s] for f in flops] for s in seeds])
    return Family(name, np.array(flops, dtype=float), table, tuple(seeds))


def cost(flops: Array, curve: Array, accuracy: float) -> float:
    """FLOPs at which a curve that never falls reaches an accuracy; inf if it does not.

    What the smallest budget reaches already costs that budget: nothing is claimed below it.
    """
    if accuracy > curve[-1]:
        return inf
    i = int(np.searchsorted(curve, accuracy))
    if i == 0:
        return float(flops[0])
    share = (accuracy - curve[i - 1]) / (curve[i] - curve[i - 1])
    return float(2 ** (log2(flops[i - 1]) + share * (log2(flops[i]) - log2(flops[i - 1]))))


def at(flops: Array, curve: Array, budget: float) -> float:
    """Accuracy of a curve at a budget; nan outside of its budgets."""
    if not flops[0] * 0.999 <= budget <= flops[-1] * 1.001:
        return float("nan")
    return float(np.interp(log2(budget), np.log2(flops), curve))


def ratios(grown: Family, scratch: Family) -> list[tuple[float, Estimate]]:
    """For each point of the frontier: its FLOPs, and the share of them that the family needs."""

    def one(i: int, seeds: NDArray[np.intp]) -> float:
        mine, theirs = grown.curve(seeds), scratch.curve(seeds)
        accuracy = float(theirs[i])
        return cost(grown.flops, mine, accuracy) / cost(scratch.flops, theirs, accuracy)

    _same_seeds(grown, scratch)
    return [(float(f), _resampled(partial(one, i), grown)) for i, f in enumerate(scratch.flops)]


def leads(grown: Family, scratch: Family) -> list[tuple[float, Estimate]]:
    """For each budget of the family: its FLOPs, and how far it is ahead of the frontier.

    The interval is Student's, of the differences between runs of the same seed.
    """
    _same_seeds(grown, scratch)
    found = []
    for i, budget in enumerate(grown.flops):
        theirs = [at(scratch.flops, row, budget) for row in scratch.envelope()]
        found.append((float(budget), _student(grown.accuracies[:, i] - np.array(theirs))))
    return found


def _student(values: Array) -> Estimate:
    center, n = float(values.mean()), len(values)
    reach = inf
    if n > 1:
        reach = float(student_t.ppf(0.975, n - 1) * values.std(ddof=1) / n**0.5)
    return Estimate(center, center - reach, center + reach)


def _resampled(value: Callable[[NDArray[np.intp]], float], family: Family) -> Estimate:
    draw = np.random.default_rng(0)
    drawn = [value(draw.integers(0, family.seeds, family.seeds)) for _ in range(RESAMPLED)]
    low, high = np.quantile(drawn, (0.025, 0.975), method="nearest")
    return Estimate(value(np.arange(family.seeds)), float(low), float(high))


def _same_seeds(one: Family, other: Family) -> None:
    if one.seeds != other.seeds or one.which != other.which:
        raise LabError(
            f"'{one.name}' has {one.seeds} seeds and '{other.name}' {other.seeds}: run the same."
        )
