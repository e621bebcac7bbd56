"""Members that complement each other."""

from __future__ import annotations

from dataclasses import dataclass
from math import fsum

import torch

from gnomon.evolution.chance import Chance
from gnomon.evolution.select.base import Results, best_first


@dataclass(frozen=True)
class CoEvolution:
    """The best one, then in turn the one that is best where those picked before are wrong.

        example          1     2     3     4
        picked are right 0     1     2     0       c
        weight           1    1/4   1/9    1       (1 + c)^-p

    p: how fast an example stops to count once members are right on it; `float("inf")` is the hard
       version of the paper's text: an example that one is right on counts no more.

    Ties go to the more accurate one, then to the older one.
    Source: Painter, Deep Neuroevolution, 4.3, and its published code, where p is 2.
    """

    p: float = 2.0

    def __post_init__(self) -> None:
        if not self.p >= 0:
            raise ValueError(f"p must not be negative, not {self.p!r}")

    def select(self, results: Results, keep: int, chance: Chance) -> list[int]:
        """Rows in the order in which they were picked."""
        waiting, picked = best_first(results), list[int]()
        covered = torch.zeros(results.correct.shape[1], dtype=torch.float64)
        while waiting and len(picked) < keep:
            weights = (1 + covered) ** -self.p  # 1 ** -inf is 1, 2 ** -inf is 0
            # fsum: the same addends in another order are equals, to the bit
            values = [fsum(row) for row in (results.correct[waiting] * weights).tolist()]
            row = waiting.pop(values.index(max(values)))  # the first of equals
            picked.append(row)
            covered += results.correct[row]
        return picked
