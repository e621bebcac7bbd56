"""Members of which no other is both more accurate and cheaper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gnomon.evolution.chance import Chance
from gnomon.evolution.select.base import Results


@dataclass(frozen=True)
class Pareto:
    """The front of accuracy against a cost, then the front of the rest, and so on.

    Of a front that does not fit, those that stand most alone on it go on, its two ends first.
    Source: Deb et al. 2002, NSGA-II (crowding distance).
    """

    cost: Literal["flops", "parameters"] = "flops"

    def __post_init__(self) -> None:
        if self.cost not in ("flops", "parameters"):
            raise ValueError(f"cost must be 'flops' or 'parameters', not {self.cost!r}")

    def select(self, results: Results, keep: int, chance: Chance) -> list[int]:
        """Rows front by front, in each the most lonely first."""
        costs = results.flops if self.cost == "flops" else results.parameters
        points = [(-a, float(c)) for a, c in zip(results.accuracy, costs, strict=True)]
        waiting, picked = list(range(len(points))), list[int]()
        while waiting and len(picked) < keep:
            front = [a for a in waiting if not any(_beats(points[b], points[a]) for b in waiting)]
            alone = _distances([points[row] for row in front])
            order = sorted(range(len(front)), key=lambda i: (-alone[i], points[front[i]], front[i]))
            picked += [front[i] for i in order]
            waiting = [row for row in waiting if row not in front]
        return picked[:keep]


def _beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return a != b and a[0] <= b[0] and a[1] <= b[1]


def _distances(points: Sequence[tuple[float, float]]) -> list[float]:
    """How far each point's neighbours on the front are apart, in shares of the whole front."""
    found = [0.0] * len(points)
    for axis in (0, 1):
        order = sorted(range(len(points)), key=lambda i: points[i])
        values = [points[i][axis] for i in order]
        span = abs(values[-1] - values[0]) or 1.0
        found[order[0]] = found[order[-1]] = float("inf")
        for before, i, after in zip(order, order[1:], order[2:], strict=False):
            found[i] += abs(points[after][axis] - points[before][axis]) / span
    return found
