"""Algorithms 1 and 2 of Wei et al. 2016 as they stand, for comparison; the library uses neither.

They are not function preserving by construction: they hand back their residual, whatever it is.
Least squares by SVD of the full matrix, which is what their "deconvolution" solves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gnomon.decompose.compose import compose, embedded, indices
from gnomon.decompose.factors import checked, middle
from gnomon.decompose.feasible import Kernel
from gnomon.decompose.scale import drawn, equalised, spread
from gnomon.draw import Draw


@dataclass(frozen=True, eq=False)
class Attempt:
    """Two layers, and how far they are from the one: |F2 * F1 - G~| / |G~|, Frobenius.

    iterations: of the outermost loop. history: the residual after each of them.
    """

    first: Tensor
    second: Tensor
    residual: float
    iterations: int
    history: tuple[float, ...]


def alternating(
    weight: Tensor,
    *,
    hidden: int,
    kernels: tuple[Kernel, Kernel],
    draw: Draw,
    iterations: int = 100,
    tolerance: float = 1e-10,
) -> Attempt:
    """Algorithm 1: both layers from noise, then each solved in turn with the other one fixed.

    weight: (O, I, *K). Stops at the tolerance, which stands for the printed "until l = 0".
    """
    weight = checked(weight)
    extent = [a + b - 1 for a, b in zip(*kernels, strict=True)]
    whole = embedded(weight, extent, middle(tuple(weight.shape[2:]), *kernels))
    out, into = weight.shape[:2]
    std = spread(weight) or 1.0
    first = drawn(draw, (hidden, into, *kernels[0]), std)
    second = drawn(draw, (out, hidden, *kernels[1]), std)
    history: list[float] = []
    while len(history) < iterations and (not history or history[-1] > tolerance):
        second = least_squares(whole.transpose(0, 1), first.transpose(0, 1), kernels[1])
        second = second.transpose(0, 1)
        first = least_squares(whole, second, kernels[0])
        missing = compose(first, second)[0] - whole
        history.append(float(missing.norm() / whole.norm().clamp(min=1e-300)))
    return Attempt(first, second, history[-1], len(history), tuple(history))


def shrinking_loop(
    weight: Tensor,
    *,
    hidden: int,
    kernels: tuple[Kernel, Kernel],
    draw: Draw,
    tolerance: float = 1e-10,
) -> Attempt:
    """Algorithm 2 where F1 expands G: Algorithm 1 for one round, with ever fewer taps of F2.

    Ends at the tolerance or with no taps left to give up; then F2 is padded by zeros, both are
    normalised, and the residual is what it is.
    """
    history: list[float] = []
    for less in range(max(kernels[1], default=1)):
        taps = tuple(max(1, size - less) for size in kernels[1])
        if any(a + r - 1 < k for a, r, k in zip(kernels[0], taps, weight.shape[2:], strict=True)):
            break
        found = alternating(
            weight, hidden=hidden, kernels=(kernels[0], taps), draw=draw, iterations=1
        )
        history.append(found.residual)
        if found.residual <= tolerance:
            break
    first, second = equalised(found.first, found.second)
    place = [(size - r) // 2 for size, r in zip(kernels[1], second.shape[2:], strict=True)]
    second = embedded(second, kernels[1], place)
    return Attempt(first, second, history[-1], len(history), tuple(history))


def least_squares(whole: Tensor, given: Tensor, taps: Kernel) -> Tensor:
    """The layer (L, I, *taps) behind which `given` (O, L, *) comes nearest to `whole` (O, I, *)."""
    columns = matrix(given, taps)
    sides = whole.movedim(1, -1).reshape(-1, whole.shape[1])
    # not "gelsy": with torch 2.13 it now and then left residuals of .5 where 1e-15 was possible
    solution: Tensor = torch.linalg.lstsq(columns, sides, driver="gelsd").solution
    return solution.view(*taps, given.shape[1], whole.shape[1]).movedim((-2, -1), (0, 1))


def matrix(given: Tensor, taps: Kernel) -> Tensor:
    """M: (O x composed taps, taps x L), so that M vec(F1[:, i]) = vec(G~[:, i])."""
    extent = [a + b - 1 for a, b in zip(taps, given.shape[2:], strict=True)]
    blocks = [embedded(given, extent, u).movedim(1, -1) for u in indices(taps)]
    columns = torch.stack(blocks, -2)
    return columns.reshape(given.shape[0] * math.prod(extent), -1)
