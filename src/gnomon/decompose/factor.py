"""One layer decomposed into two: a way is chosen, a factor drawn, the other solved, both scaled."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gnomon.decompose.compose import embedded
from gnomon.decompose.equations import Dimension, System, dimension, system
from gnomon.decompose.factors import Factors, checked, middle
from gnomon.decompose.feasible import Case, Kernel, Shapes, Solved, case
from gnomon.decompose.refusal import no_case, no_solution, too_large
from gnomon.decompose.scale import balanced_std, drawn, equalised, orthogonal
from gnomon.decompose.solve import memory, projected
from gnomon.draw import Draw
from gnomon.errors import CannotPreserve, Unsupported

TOLERANCE = 1e-10  # solved systems leave 1e-15 to 1e-13, inconsistent ones 1e-3 and more
SURE = 1e-13  # above it another draw is tried: small square matrices can be ill-conditioned
ATTEMPTS = 4


def factored(
    weight: Tensor,
    *,
    hidden: int,
    kernels: tuple[Kernel, Kernel],
    draw: Draw,
    off: Kernel | None = None,
    taps: Kernel | None = None,
    solved: Solved | None = None,
    groups: int = 1,
    budget: int | None = None,
) -> Factors:
    """Two layers of random entries that together compute `weight`, as dense as can be solved.

    weight: (O, I / groups, *K), any dtype. hidden: L, channels between, all groups together.
    kernels: K1 and K2. off: place of G in the composed kernel, its middle by default. taps: of the
    layer that is drawn, if fewer than possible. solved: which of the two is solved for; with
    "first" and one tap the second never meets padding. budget: bytes that the solver may take.
    Raises CannotPreserve if no such layers exist, Unsupported above the budget and for NaN.
    """
    weight = checked(weight)
    shapes = shapes_of(weight, hidden, kernels, groups)
    chosen = case(shapes, taps, solved)
    if chosen is None:
        raise CannotPreserve(no_case(shapes))
    dimensions = [dimension(k1, r) for k1, r in zip(chosen.shapes.first, chosen.taps, strict=True)]
    at = middle(shapes.kernel, *kernels) if off is None else off
    return solved_in_groups(weight, chosen, dimensions, at, draw=draw, groups=groups, budget=budget)


def shapes_of(
    weight: Tensor, hidden: int, kernels: tuple[Kernel, Kernel], groups: int = 1
) -> Shapes:
    """The shapes of the split in each group; ValueError if the groups do not divide them."""
    if weight.shape[0] % groups or hidden % groups:
        raise ValueError(f"{groups} groups do not divide {weight.shape[0]} and {hidden} channels")
    out, into = weight.shape[0] // groups, weight.shape[1]
    return Shapes(out, into, hidden // groups, tuple(weight.shape[2:]), *kernels)


def solved_in_groups(
    weight: Tensor,
    chosen: Case,
    dimensions: Sequence[Dimension],
    at: Kernel,
    *,
    draw: Draw,
    groups: int,
    budget: int | None,
) -> Factors:
    """Both layers, group by group; `dimensions` are the equations of each dimension as solved."""
    rows = math.prod(dimensions[i].rows for i in chosen.coupled)
    if budget is not None and (needed := memory(chosen, rows)) > budget:
        raise Unsupported(too_large(chosen, needed, budget))
    dims = chosen.coupled
    kept = [chosen.shapes.first[i] for i in dims], [chosen.taps[i] for i in dims]
    whole = system([dimensions[i] for i in dims], *kept)
    parts = [_solved(part, chosen, whole, at, draw) for part in weight.chunk(groups)]
    first, second = _joined([part[0] for part in parts]), _joined([part[1] for part in parts])
    seen = chosen.shapes
    extent = [a + b - 1 for a, b in zip(seen.first, seen.second, strict=True)]
    rest = tuple(size - k - o for size, k, o in zip(extent, seen.kernel, at, strict=True))
    return Factors(first, second, max(part[2] for part in parts), at, rest, groups)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """The groups one after the other; a single one without a copy."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _solved(
    weight: Tensor, chosen: Case, whole: System, at: Kernel, draw: Draw
) -> tuple[Tensor, Tensor, float]:
    """(O, I, *K) of one group to both layers and the residual; CannotPreserve if it is large."""
    shapes, taps, dims = chosen.shapes, chosen.taps, chosen.coupled
    seen = weight.transpose(0, 1) if chosen.solved == "second" else weight
    place = _place(shapes, taps, at)
    extent = [a + r - 1 for a, r in zip(shapes.first, taps, strict=True)]
    inside = embedded(seen, extent, [a - b for a, b in zip(at, place, strict=True)])
    target = _target(inside, whole, dims)
    std = balanced_std(seen, shapes.hidden, shapes.first, taps)
    best, unknown, given = math.inf, target, target
    for _ in range(ATTEMPTS):
        fixed = _given(draw, shapes, taps, std)
        free = stacked(drawn(draw, (shapes.hidden, shapes.into, *shapes.first), std), dims)
        residual = projected(stacked(fixed, dims), free, target, whole)
        if residual < best:
            best, unknown, given = residual, free, fixed
        if best <= SURE:
            break
    if best > TOLERANCE:
        raise CannotPreserve(no_solution(chosen, best))
    one = unstacked(unknown, (shapes.hidden, shapes.into, *shapes.first), dims)
    one, two = equalised(one, given)
    two = embedded(two, shapes.second, place)
    if chosen.solved == "second":
        one, two = two.transpose(0, 1), one.transpose(0, 1)
    return one.contiguous(), two.contiguous(), best


def _place(shapes: Shapes, taps: Kernel, at: Kernel) -> list[int]:
    """Where the given layer's taps lie in its kernel: central, if G then has room at `at`."""
    places = []
    for k, a, b, r, o in zip(shapes.kernel, shapes.first, shapes.second, taps, at, strict=True):
        if not 0 <= o <= a + b - 1 - k:
            raise ValueError(f"{k} taps at {o} leave the {a + b - 1} of the composed kernel")
        low, high = max(0, o - (a + r - 1 - k)), min(b - r, o)
        places.append(min(max((b - r) // 2, low), high))
    return places


def _given(draw: Draw, shapes: Shapes, taps: Kernel, std: float) -> Tensor:
    """(O, L, *taps): independent entries, or orthogonal rows where those would be near singular."""
    if math.prod(taps) == 1 and shapes.hidden < 2 * shapes.out:
        flat = orthogonal(draw, shapes.out, shapes.hidden, std)
        return flat.view(shapes.out, shapes.hidden, *taps)
    return drawn(draw, (shapes.out, shapes.hidden, *taps), std)


def _target(inside: Tensor, whole: System, dims: Sequence[int]) -> Tensor:
    """(O, I, *K1 + r - 1) as right-hand sides (rows, O, columns), zero on the border rows."""
    values = stacked(inside, dims)
    target = values.new_zeros(*whole.shape, *values.shape[1:])
    window = tuple(slice(size) for size in whole.interior)
    target[window] = values.view(*whole.interior, *values.shape[1:])
    return target.view(whole.rows, *values.shape[1:])


def stacked(weight: Tensor, dims: Sequence[int]) -> Tensor:
    """(A, B, *K) to (taps of `dims`, A, B times the other taps): those only make columns."""
    order = _order(weight.dim() - 2, dims)
    taps = math.prod(weight.shape[2 + i] for i in dims)
    return weight.permute(order).reshape(taps, weight.shape[0], -1)


def unstacked(rows: Tensor, shape: Sequence[int], dims: Sequence[int]) -> Tensor:
    """The inverse of `stacked`, for a weight of this shape."""
    order = _order(len(shape) - 2, dims)
    return rows.view([shape[i] for i in order]).permute(torch.tensor(order).argsort().tolist())


def _order(n: int, dims: Sequence[int]) -> list[int]:
    """Kept taps, channels, other taps."""
    return [2 + i for i in dims] + [0, 1] + [2 + i for i in range(n) if i not in dims]
