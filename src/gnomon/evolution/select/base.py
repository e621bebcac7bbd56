"""What a selection is given, and what it must offer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gnomon.evolution.chance import Chance


@dataclass(frozen=True, eq=False)
class Results:
    """What is known about the members, one row for each, older ones first.

    correct: (members, examples) float64, how right each is on each validation example, 0 to 1.
    parameters, flops: (members,) int64.
    """

    correct: Tensor
    parameters: Tensor
    flops: Tensor

    @property
    def accuracy(self) -> list[float]:
        """The mean over the examples, for each member."""
        return [float(a) for a in self.correct.mean(1)]

    def of(self, rows: Sequence[int]) -> Results:
        """Those of some members."""
        return Results(
            self.correct[list(rows)], self.parameters[list(rows)], self.flops[list(rows)]
        )

    def __len__(self) -> int:
        return len(self.correct)


def pooled(results: Sequence[Results]) -> Results:
    """Those of several populations that were told on the same examples, one after the other."""
    return Results(
        torch.cat([r.correct for r in results]),
        torch.cat([r.parameters for r in results]),
        torch.cat([r.flops for r in results]),
    )


class Selection(Protocol):
    """Which members go on. Frozen dataclasses: their text is part of a checkpoint."""

    def select(self, results: Results, keep: int, chance: Chance) -> list[int]:
        """Different rows, at most `keep`, in the order in which they were picked."""


def best_first(results: Results) -> list[int]:
    """All rows by accuracy; of equals the older one first."""
    accuracy = results.accuracy
    return sorted(range(len(results)), key=lambda row: (-accuracy[row], row))
