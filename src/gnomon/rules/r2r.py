"""R2R: new channels in twins that cancel (Painter)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gnomon.draw import Draw
from gnomon.embedding import Embedding, monomial
from gnomon.errors import CannotPreserve
from gnomon.rules.base import Law, Rule, divided, on_grid


@dataclass(frozen=True, kw_only=True, repr=False)
class R2R(Rule):
    """Each fresh signal is carried twice and read with opposite signs.

        writers   W | U  U          readers   V | +b  -b

    An odd number makes one triple, read as b1, b2, -(b1 + b2); a single new channel joins an old
    one and shares its readers. U and b are random and keep the existing weights' spread. Twins
    part by themselves at the first step, because their gradients have opposite signs.
    """

    source: ClassVar[str] = "Painter, Towards a More Complete Theory of FPTs, eq. 8-13 (R2WiderR)"

    def embed(self, n: int, k: int, laws: frozenset[Law], draw: Draw) -> Embedding:
        """Twins at the end, a triple first if k is odd."""
        refuse_uniform(self, laws)
        if k == 1:
            return monomial(torch.cat([torch.arange(n), draw.below(n, (1,))]), n, 0)
        twins = n + torch.arange(k // 2).repeat_interleave(2)
        triple = torch.full((k % 2,), n)
        return monomial(torch.cat([torch.arange(n), triple, twins]), n, k // 2)

    def free(self, columns: Tensor, e: Embedding, draw: Draw) -> Tensor:
        """±b for twins, zero-sum triples on a grid, shares where a channel joined an old one."""
        rows, inner = columns.shape[0], columns.shape[2]
        if e.size == e.fresh:  # one of each pair: its twin gets the opposite sign
            return draw.weights((rows, e.size, inner))
        z = divided(columns, e, draw, uneven=True)
        for signals, channels in e.classes:
            fresh = channels[signals >= e.old]
            count, r = fresh.shape
            if not count:
                continue
            if r == 2:
                b = draw.weights((rows, count, inner))
                z.index_copy_(1, fresh[:, 0], b).index_copy_(1, fresh[:, 1], -b)
                continue
            b = draw.weights((rows, count, r, inner)) * math.sqrt(r / (r - 1))
            b = on_grid(b - b.mean(2, keepdim=True))[:, :, :-1]
            z[:, fresh] = torch.cat([b, -b.sum(2, keepdim=True)], dim=2)
        return z


def refuse_uniform(rule: Rule, laws: frozenset[Law]) -> None:
    """Rules that add unequal copies cannot pass an average over the channels."""
    for law in laws:
        if law.kind == "uniform":
            raise CannotPreserve(
                f"{type(rule).__name__} adds channels that {law.reason} in '{law.where}' would mix "
                f"into the old ones; Net2Net() can copy all of them equally often (by=2, 3, ...)"
                + (", NetMorph(zero='writers') can add any number" if law.norm else "")
            )
