"""When a layer can be two layers: the conditions that hold, rather than those that were printed.

Given F2 with r taps, F1 solves (O prod(K1 + r - 1)) equations in (L prod K1) unknowns for each
input channel; given F1, the mirror image. One of the two must have enough unknowns (eq. 7 of Wei
et al. 2016 says min where it must say max) and a matrix of full rank, which counting alone does
not give: with O = 1, L = 3 and 3x3 taps twice, 27 unknowns have rank 24 where 25 are needed.
Fewer taps r need fewer unknowns; r = 1 needs L >= O and K1 >= K. That the parameters of F1 are no
fewer than those of G, as printed, does not suffice: rank L < O stays rank L whatever the kernels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import torch

from gnomon.decompose.compose import embedded, indices
from gnomon.draw import Draw

Kernel = tuple[int, ...]
Solved = Literal["first", "second"]


@dataclass(frozen=True)
class Shapes:
    """The shapes of one split, in one group.

    out, into, hidden: channels after, before and between. kernel: taps of the layer as it is;
    first, second: taps of the two layers that it becomes.
    """

    out: int
    into: int
    hidden: int
    kernel: Kernel
    first: Kernel
    second: Kernel

    def __post_init__(self) -> None:
        if not len(self.kernel) == len(self.first) == len(self.second):
            raise ValueError(f"{self} mixes different numbers of spatial dimensions")
        if min(self.out, self.into, self.hidden, *self.kernel, *self.first, *self.second) < 1:
            raise ValueError(f"{self} must have positive sizes")

    @property
    def composed(self) -> Kernel:
        """Taps of the two layers together."""
        return tuple(a + b - 1 for a, b in zip(self.first, self.second, strict=True))

    @property
    def mirrored(self) -> Shapes:
        """Input and output, and with them the two layers, in each other's place."""
        return Shapes(
            self.into, self.out, self.hidden, self.kernel, first=self.second, second=self.first
        )


@dataclass(frozen=True)
class Case:
    """One way to solve a split: which layer is solved for, given the other with so many taps.

    shapes: as seen by the solver, mirrored where the second layer is solved for.
    taps:   of the given layer; the rest of its kernel stays zero.
    """

    shapes: Shapes
    solved: Solved
    taps: Kernel

    @property
    def filled(self) -> float:
        """Share of the given layer's taps that are not zero."""
        return math.prod(self.taps) / math.prod(self.shapes.second)

    @property
    def coupled(self) -> tuple[int, ...]:
        """Dimensions in which taps share equations: the others are only more columns."""
        return tuple(i for i, r in enumerate(self.taps) if r > 1)

    @property
    def size(self) -> int:
        """Rows of the matrix that is factored."""
        return self.shapes.out * math.prod(
            self.shapes.first[i] + self.taps[i] - 1 for i in self.coupled
        )


def case(shapes: Shapes, taps: Kernel | None = None, solved: Solved | None = None) -> Case | None:
    """The way to solve a split that fills most of its kernels, or None if there is none.

    taps: of the given layer, instead of as many as possible. solved: which layer to solve for.
    Of equal ones the one with the smaller matrix, then the first layer.
    """
    found = []
    for side in ("first", "second") if solved is None else (solved,):
        seen = shapes if side == "first" else shapes.mirrored
        wanted = _floor(seen, taps) if taps else shrunk(seen)
        if wanted is not None:
            found.append(Case(seen, side, wanted))
    return min(found, key=lambda c: (-c.filled, c.size), default=None)


def feasible(shapes: Shapes) -> bool:
    """Whether two layers of these shapes can compute any layer of that shape."""
    return case(shapes) is not None


def shrunk(shapes: Shapes) -> Kernel | None:
    """Taps of the second layer with which the first can be solved for, as many as possible.

    Where Algorithm 2 of Wei et al. 2016 stops, by counting. In D dimensions with equal kernels it
    is `r = min(K2, floor(K1 (L / O)^(1/D)) - K1 + 1)`. None if not even the fewest taps will do.
    """
    return next((r for r in shrinking(shapes) if _solvable(shapes, r)), None)


def shrinking(shapes: Shapes) -> Iterator[Kernel]:
    """Ever fewer taps of the second layer, one less in each dimension, while the kernel fits."""
    least = tuple(max(1, k - a + 1) for k, a in zip(shapes.kernel, shapes.first, strict=True))
    if any(k2 < r for k2, r in zip(shapes.second, least, strict=True)):
        return
    most = max((k2 - r for k2, r in zip(shapes.second, least, strict=True)), default=0)
    for less in range(most + 1):
        yield tuple(max(k2 - less, r) for k2, r in zip(shapes.second, least, strict=True))


def _floor(shapes: Shapes, taps: Kernel) -> Kernel | None:
    """`taps` if they lie in the kernel, hold the layer and can be solved for."""
    sides = zip(shapes.first, shapes.second, shapes.kernel, taps, strict=True)
    fits = all(r <= k2 and a + r - 1 >= k for a, k2, k, r in sides)
    return taps if fits and _solvable(shapes, taps) else None


def _solvable(shapes: Shapes, taps: Kernel) -> bool:
    """Whether a random second layer with these taps leaves a first one to be solved for."""
    dims = [i for i, r in enumerate(taps) if r > 1]
    first, given = tuple(shapes.first[i] for i in dims), tuple(taps[i] for i in dims)
    equations = shapes.out * math.prod(a + r - 1 for a, r in zip(first, given, strict=True))
    if shapes.hidden * math.prod(first) < equations:
        return False
    if not dims or any(a - 1 < shapes.out * (r - 1) for a, r in zip(first, given, strict=True)):
        return True
    enough = shapes.out * math.prod(given)  # so many span every given layer: more add no rank
    return _has_full_rank(shapes.out, min(shapes.hidden, enough), first, given)


@cache
def _has_full_rank(out: int, hidden: int, first: Kernel, given: Kernel) -> bool:
    """Whether a random given layer leads to independent equations, by trying one.

    Only for few channels and long kernels: minors of the given layer, of (out + 1)^2 entries each,
    are kernel vectors of the matrix (Koszul's for out = 1), and they have out (r - 1) + 1 taps.
    With fewer taps to be solved for, a random matrix has full rank.
    """
    sizes = [a + r - 1 for a, r in zip(first, given, strict=True)]
    taps = Draw(0, "rank").weights((hidden, out, *given))
    whole = taps.new_zeros(math.prod(first), hidden, out, *sizes)
    for rows, u in zip(whole, indices(first), strict=True):
        rows.copy_(embedded(taps, sizes, u))
    columns = whole.reshape(math.prod(first) * hidden, -1)
    values = torch.linalg.eigvalsh(columns.T @ columns)
    return bool(values[0] > 1e-13 * values[-1])


def smallest_width(shapes: Shapes) -> int | None:
    """The fewest hidden channels with which these kernels can hold the layer, or None."""
    found = []
    for seen in (shapes, shapes.mirrored):
        *_, least = [None, *shrinking(seen)]
        if least is None:
            continue
        taps = math.prod(seen.first)
        equations = math.prod(a + r - 1 for a, r in zip(seen.first, least, strict=True))
        width = max(1, -(-seen.out * equations // taps))
        while not _solvable(replace(seen, hidden=width), least):
            width += 1
        found.append(width)
    return min(found, default=None)


def smallest_kernels(shapes: Shapes) -> tuple[Kernel, Kernel] | None:
    """The least enlarged kernels with which this hidden width can hold the layer, or None.

    One of the two grows, tap by tap in each dimension, until the other may have a single tap.
    """
    enlarged = []
    if (first := _grown(shapes)) is not None:
        enlarged.append((first, shapes.second))
    if (second := _grown(shapes.mirrored)) is not None:
        enlarged.append((shapes.first, second))
    return min(
        enlarged,
        key=lambda two: math.prod(two[0]) * shapes.into + math.prod(two[1]) * shapes.out,
        default=None,
    )


def _grown(shapes: Shapes) -> Kernel | None:
    """The first layer's taps, grown until it can be solved for."""
    short = max((k - a for k, a in zip(shapes.kernel, shapes.first, strict=True)), default=0)
    for more in range(max(short, 0) + 1):
        first = tuple(
            max(a, min(a + more, k)) for a, k in zip(shapes.first, shapes.kernel, strict=True)
        )
        if shrunk(replace(shapes, first=first)) is not None:
            return first
    return None
