"""How much of the inserted layer is filled, method by method: figure 3 of Wei et al. 2016.

`feasible.shrunk` is where the loop of their Algorithm 2 ends; here is what that means for density.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from gnomon.decompose.feasible import Shapes, case


@dataclass(frozen=True)
class Densities:
    """Shares of non-zero entries in the layer that is drawn, F2 (O, L, *K2) where F1 is solved.

    identity: the identity embedded (IdMorph), one entry per channel: O(C) of them.
    worst:    Algorithm 2 with one tap left: O(C^2). best: with all of them: O(C^2 K^2).
    solved:   Algorithm 2, and `factored`, on these very shapes; nan where they are infeasible.
    pairs:    `base_and_pairs`: one tap for the base, all for the pairs; nan likewise.
    """

    identity: float
    worst: float
    best: float
    solved: float
    pairs: float


def densities(shapes: Shapes) -> Densities:
    """The shares for one split, by counting."""
    chosen = case(shapes)
    seen = shapes if chosen is None else chosen.shapes
    taps = math.prod(seen.second)
    share = min(seen.out, seen.hidden) / (seen.out * seen.hidden * taps)
    base = seen.out + (seen.hidden - seen.out) % 2
    fits = all(a >= k for a, k in zip(seen.first, seen.kernel, strict=True))
    pairs = base / taps + (seen.hidden - base) if fits and base <= seen.hidden else math.nan
    return Densities(
        identity=share,
        worst=1 / taps,
        best=1.0,
        solved=math.nan if chosen is None else chosen.filled,
        pairs=pairs / seen.hidden,
    )


def density(weight: Tensor) -> float:
    """Share of the entries that are not zero."""
    return int(weight.count_nonzero()) / max(weight.numel(), 1)
