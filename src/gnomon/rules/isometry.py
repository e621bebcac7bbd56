"""Isometry: a normed stream of any width, turned into a wider one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gnomon.draw import Draw
from gnomon.embedding import Embedding
from gnomon.errors import CannotPreserve
from gnomon.rules.base import Law, Rule


@dataclass(frozen=True, kw_only=True, repr=False)
class Isometry(Rule):
    """All channels of a stream under LayerNorm or RMSNorm are mixed anew, into more of them.

        writers   T W          norms   gain 1, the same eps          readers   V diag(gain) T+ + Z

    T'T is a multiple of the identity and T 1 = 1, so the norms see what they saw. Every channel
    carries something of every old one; none is new and none is as it was. Z is random and reads
    what nothing writes yet (Z T = 0), so that the new dimensions learn from the first step. For
    streams only: on the way from their writers to their norms and readers no operation may tell
    channels apart, since what it does to one of them it would do to a mixture.
    """

    source: ClassVar[str] = "gnomon, docs/normed-streams.md (the isometric expansion)"

    def embed(self, n: int, k: int, laws: frozenset[Law], draw: Draw) -> Embedding:
        """A turn of n channels into n + k, drawn evenly; where it may pass is found on the tape."""
        averages = [law for law in laws if law.kind == "uniform"]
        other = next((law for law in averages if not law.norm), None)
        if other is not None:
            raise CannotPreserve(
                f"{other.reason} in '{other.where}' averages the channels and is no LayerNorm or "
                f"RMSNorm over them, so it would see a turn: use Net2Net() to a multiple, by=2"
            )
        if not averages:
            raise CannotPreserve(
                "no LayerNorm or RMSNorm averages these channels, and only a stream under one is "
                "turned: use R2R()"
            )
        source = torch.cat([torch.arange(n), torch.full((k,), -1)])
        key = int(draw.below(1 << 62, (1,)))
        return Embedding(source, torch.ones(n + k, dtype=torch.float64), n, 0, turn=key)

    def free(self, columns: Tensor, e: Embedding, draw: Draw) -> Tensor:
        """Z on all channels, of which the part that reads old signals is taken away."""
        return draw.weights((columns.shape[0], e.size, columns.shape[2]))
