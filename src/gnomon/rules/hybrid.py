"""Hybrid: twins that start near an old channel (Painter, future work)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from gnomon.draw import Draw
from gnomon.embedding import Embedding
from gnomon.rules.base import Law
from gnomon.rules.r2r import R2R


@dataclass(frozen=True, kw_only=True, repr=False)
class Hybrid(R2R):
    """R2R's readers with Net2Net's writers: twins that begin as a noisy copy of an old channel.

        writers   W | W[g]+e  W[g]+e          readers   V | +b  -b

    `noise` is the spread of e relative to the old weights'; twins share it, so they cancel.
    """

    noise: float = 0.1

    source: ClassVar[str] = "Painter, Towards a More Complete Theory of FPTs, section 6 (hybrid)"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.noise < float("inf"):
            raise ValueError(f"noise must be finite and not negative, not {self.noise}")

    def embed(self, n: int, k: int, laws: frozenset[Law], draw: Draw) -> Embedding:
        """R2R's twins, each near a random old channel."""
        e = super().embed(n, k, laws, draw)
        return replace(e, near=draw.below(n, (e.fresh,)))

    def fresh(self, rows: Tensor, e: Embedding, draw: Draw) -> Tensor:
        """The near channel's rows and a little noise."""
        near = rows[:, e.near].double()
        return near + self.noise * draw.weights(near.shape)
