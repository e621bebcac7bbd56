"""RandPad: random new weights on both sides; the baseline that does not preserve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gnomon.draw import Draw
from gnomon.embedding import Embedding, monomial
from gnomon.rules.base import Law, Rule


@dataclass(frozen=True, kw_only=True, repr=False)
class RandPad(Rule):
    """One fresh signal per new channel, read with random weights: the function changes.

        writers   W | U          readers   V | b

    Only for comparison; plans and receipts say that it does not preserve.
    """

    preserves: ClassVar[bool] = False
    source: ClassVar[str] = "Painter, Towards a More Complete Theory of FPTs, section 7 (RandPad)"

    def embed(self, n: int, k: int, laws: frozenset[Law], draw: Draw) -> Embedding:
        """Fresh channels behind the old ones, whatever the laws."""
        return monomial(torch.arange(n + k), n, k)

    def free(self, columns: Tensor, e: Embedding, draw: Draw) -> Tensor:
        """Random readers, not projected."""
        return draw.weights((columns.shape[0], e.size, columns.shape[2]))
