"""The winners of small random tournaments."""

from __future__ import annotations

from dataclasses import dataclass

from gnomon.evolution.chance import Chance
from gnomon.evolution.select.base import Results, best_first


@dataclass(frozen=True)
class Tournament:
    """The most accurate of `size` members drawn at random, then of those left, and so on.

    A smaller size lets worse members through: 1 is pure chance, all members is `Best`.
    Source: Real et al. 2017, Large-scale evolution of image classifiers, with size 2.
    """

    size: int = 2

    def __post_init__(self) -> None:
        if isinstance(self.size, bool) or not isinstance(self.size, int) or self.size < 1:
            raise ValueError(f"size must be a whole number of 1 or more, not {self.size!r}")

    def select(self, results: Results, keep: int, chance: Chance) -> list[int]:
        """Rows in the order in which they won."""
        waiting, picked = best_first(results), list[int]()
        while waiting and len(picked) < keep:
            drawn = chance.several(len(waiting), self.size)
            picked.append(waiting.pop(min(drawn)))
        return picked
