"""The most accurate members."""

from __future__ import annotations

from dataclasses import dataclass

from gnomon.evolution.chance import Chance
from gnomon.evolution.select.base import Results, best_first


@dataclass(frozen=True)
class Best:
    """The most accurate ones. Source: Painter, Deep Neuroevolution, algorithm 2."""

    def select(self, results: Results, keep: int, chance: Chance) -> list[int]:
        """Rows by accuracy; of equals the older one first."""
        return best_first(results)[:keep]
