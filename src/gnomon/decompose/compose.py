"""Two layers in a row as the one layer that they compute.

    G~[o, i, w] = sum over c and d1 u + s1 d2 v = w of  F2[o, c, v] F1[c, i, u]

Legend: F1 (L, I, *K1) is the first layer, F2 (O, L, *K2) the second, G~ (O, I, *K1 + K2 - 1) what
they compute together; a linear layer has no spatial dimensions. u, v, w are taps of F1, F2, G~.
All of it on an endless grid: what zero padding between the two changes is in `borders`.
Source: Wei et al. 2016, eq. 5 and 6.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

Sides = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Geometry:
    """How a convolution moves over its input, per spatial dimension.

    padding: zeros (before, after); an empty tuple of any field means 0, 1 and 1 in all dimensions.
    """

    padding: Sides = ()
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1

    def over(self, n: int) -> Geometry:
        """The same with every field spelled out for n spatial dimensions."""
        fields = (self.padding or ((0, 0),) * n, self.stride or (1,) * n, self.dilation or (1,) * n)
        if any(len(field) != n for field in fields):
            raise ValueError(f"{self} does not describe {n} spatial dimensions")
        return Geometry(*fields, groups=self.groups)


def compose(
    first: Tensor, second: Tensor, before: Geometry | None = None, behind: Geometry | None = None
) -> tuple[Tensor, Geometry]:
    """The weight and the geometry of `second` after `first`, which move as `before` and `behind`.

    first: (L, I / groups, *K1), second: (O, L / groups, *K2). Returns float64. Equal groups stay
    groups, unequal ones are filled up with zeros. The geometry has the least common dilation.
    """
    n = first.dim() - 2
    one, two = (before or Geometry()).over(n), (behind or Geometry()).over(n)
    groups = one.groups if one.groups == two.groups else 1
    if groups == 1:
        first, second = ungrouped(first, one.groups), ungrouped(second, two.groups)
    moves = zip(one.dilation, one.stride, two.dilation, strict=True)
    steps = [(d1, s1 * d2) for d1, s1, d2 in moves]
    sizes = zip(first.shape[2:], second.shape[2:], strict=True)
    common = [_common(step, size) for step, size in zip(steps, sizes, strict=True)]
    # a kernel of one tap may have a step below the common one, which must not become zero
    near = [(max(a // g, 1), max(b // g, 1)) for (a, b), g in zip(steps, common, strict=True)]
    parts = [
        _composed(f1, f2, near)
        for f1, f2 in zip(first.double().chunk(groups), second.double().chunk(groups), strict=True)
    ]
    padding = tuple(
        (p[0] + s * q[0], p[1] + s * q[1])
        for p, s, q in zip(one.padding, one.stride, two.padding, strict=True)
    )
    stride = tuple(a * b for a, b in zip(one.stride, two.stride, strict=True))
    return torch.cat(parts), Geometry(padding, stride, tuple(common), groups)


def _common(steps: tuple[int, int], sizes: tuple[int, int]) -> int:
    """The largest dilation that reaches every tap: a kernel of one tap has no step of its own."""
    return math.gcd(*(step for step, size in zip(steps, sizes, strict=True) if size > 1)) or 1


def _composed(first: Tensor, second: Tensor, steps: Sequence[tuple[int, int]]) -> Tensor:
    """(L, I, *K1) and (O, L, *K2) to (O, I, *): one product of matrices for each tap of `first`.

    steps: per dimension, how far apart the taps of `first` and of `second` lie in the result.
    """
    out, into, taps = second.shape[0], first.shape[1], second.shape[2:]
    sizes = zip(first.shape[2:], taps, steps, strict=True)
    extent = [a * (k1 - 1) + b * (k2 - 1) + 1 for k1, k2, (a, b) in sizes]
    total = first.new_zeros(*extent, out, into)
    rows = second.movedim((0, 1), (-2, -1)).reshape(-1, second.shape[1])
    for u in indices(first.shape[2:]):
        window = tuple(
            slice(a * at, a * at + b * (k2 - 1) + 1, b)
            for at, k2, (a, b) in zip(u, taps, steps, strict=True)
        )
        total[window] += (rows @ at_tap(first, u)).view(*taps, out, into)
    return total.movedim((-2, -1), (0, 1)).contiguous()


def ungrouped(weight: Tensor, groups: int) -> Tensor:
    """(O, I / groups, *K) to (O, I, *K), with zeros between the groups."""
    if groups == 1:
        return weight
    out, into = weight.shape[0] // groups, weight.shape[1]
    full = weight.new_zeros(weight.shape[0], into * groups, *weight.shape[2:])
    for g in range(groups):
        full[g * out : (g + 1) * out, g * into : (g + 1) * into] = weight[g * out : (g + 1) * out]
    return full


def embedded(weight: Tensor, kernel: Sequence[int], off: Sequence[int]) -> Tensor:
    """(O, I, *K) inside zeros (O, I, *kernel), its first tap at `off`."""
    larger = weight.new_zeros(*weight.shape[:2], *kernel)
    window = tuple(slice(a, a + k) for a, k in zip(off, weight.shape[2:], strict=True))
    larger[(slice(None), slice(None), *window)] = weight
    return larger


def at_tap(weight: Tensor, tap: Sequence[int]) -> Tensor:
    """(O, I, *K) at one tap: (O, I)."""
    for index in tap:
        weight = weight[:, :, index]
    return weight


def indices(sizes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """All index tuples below `sizes`, the last one fastest; one empty tuple for no dimensions."""
    return product(*(range(size) for size in sizes))


def second_bias(bias: Tensor, second: Tensor, first_bias: Tensor, groups: int = 1) -> Tensor:
    """`b2 = b - sum of F2 b1`: what the second layer adds where no used tap meets padding.

    bias: (O,) of the layer that was split, second: (O, L / groups, *K2), first_bias: (L,).
    """
    taps = ungrouped(second.double(), groups)
    return bias.double() - taps.reshape(*taps.shape[:2], -1).sum(2) @ first_bias.double()
