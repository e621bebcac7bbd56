"""One layer as several in a row: split off the last, then split what is left, again and again.

    G~ = F_P * ... * F_1 * F_0        kernels add up: K_0 + ... + K_P - P taps

Source: Wei et al. 2016, eq. 19.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gnomon.decompose.compose import Sides, embedded, second_bias
from gnomon.decompose.factor import factored, shapes_of
from gnomon.decompose.factors import checked, middle
from gnomon.decompose.feasible import Kernel, Shapes, feasible
from gnomon.decompose.refusal import asked
from gnomon.decompose.refusal import taps as words
from gnomon.draw import Draw
from gnomon.errors import CannotPreserve


@dataclass(frozen=True, eq=False)
class Chain:
    """Layers in a row, first to last, float64.

    residual:  the largest of the splits, relative.
    off, rest: taps of the composed kernel before and after those of G, per dimension.
    """

    weights: tuple[Tensor, ...]
    residual: float
    off: Kernel
    rest: Kernel
    groups: int = 1

    def padding(self, outer: Sides, dilation: Sequence[int] = ()) -> Sides:
        """Padding of the first layer, the others having none: exact at every border."""
        steps = tuple(dilation) or (1,) * len(outer)
        return tuple(
            (p + d * off, p_end + d * rest)
            for (p, p_end), d, off, rest in zip(outer, steps, self.off, self.rest, strict=True)
        )

    def last_bias(self, bias: Tensor, inner: Sequence[Tensor]) -> Tensor:
        """(O,) the last layer's bias, for free biases (L,) of all the others."""
        carried = inner[0].double()
        for weight, own in zip(self.weights[1:-1], inner[1:], strict=True):
            carried = own.double() - second_bias(0 * own, weight, carried, self.groups)
        return second_bias(bias, self.weights[-1], carried, self.groups)


def chained(
    weight: Tensor,
    *,
    widths: Sequence[int],
    kernels: Sequence[Kernel],
    draw: Draw,
    groups: int = 1,
    budget: int | None = None,
) -> Chain:
    """Layers in a row that compute `weight`; widths between, all groups together, and kernels.

    weight: (O, I / groups, *K). What is left after each split takes as many taps as the splits
    still to come can hold. Raises CannotPreserve if some split cannot be solved with any.
    """
    weight = checked(weight)
    if len(widths) + 1 != len(kernels):
        raise ValueError(f"{len(kernels)} kernels need one width between each two, not {widths}")
    whole = shapes_of(weight, widths[-1] if widths else groups, (kernels[0], kernels[-1]), groups)
    each = [width // groups for width in widths]
    lefts = _plan(whole, each, kernels)
    if lefts is None and _plan(whole.mirrored, each[::-1], kernels[::-1]) is not None:
        return _mirrored(weight, widths, kernels, draw, groups, budget)
    if lefts is None:
        raise CannotPreserve(
            f"{asked(whole)} cannot be a row of {' - '.join(map(words, kernels))} with "
            f"{' - '.join(map(str, widths))} channels between: from whichever end it is split, "
            "some split has fewer unknowns than equations. Take more channels between"
        )
    weights, residual = [], 0.0
    off, rest = [(0,) * len(kernels[0])] * 2
    for left, width, kernel in zip(lefts, reversed(widths), reversed(kernels[1:]), strict=True):
        two = factored(
            weight, hidden=width, kernels=(left, kernel), draw=draw, groups=groups, budget=budget
        )
        weight, residual = two.first, max(residual, two.residual)
        weights.append(two.second)
        off, rest = _sum(off, two.off), _sum(rest, two.rest)
    place = middle(tuple(weight.shape[2:]), kernels[0], (1,) * len(off))
    after = _gap(kernels[0], tuple(weight.shape[2:]), place)
    weights.append(embedded(weight, kernels[0], place))
    return Chain(tuple(weights[::-1]), residual, _sum(off, place), _sum(rest, after), groups)


def _mirrored(
    weight: Tensor,
    widths: Sequence[int],
    kernels: Sequence[Kernel],
    draw: Draw,
    groups: int,
    budget: int | None,
) -> Chain:
    """The same with input and output in each other's place: split off from the front."""
    seen = _turned(weight, groups)
    chain = chained(
        seen, widths=widths[::-1], kernels=kernels[::-1], draw=draw, groups=groups, budget=budget
    )
    weights = tuple(_turned(w, groups) for w in reversed(chain.weights))
    return replace(chain, weights=weights)


def _turned(weight: Tensor, groups: int) -> Tensor:
    """(O, I / groups, *K) to (I, O / groups, *K), group by group."""
    return torch.cat([part.transpose(0, 1) for part in weight.chunk(groups)]).contiguous()


def placed(whole: Shapes, widths: Sequence[int], kernels: Sequence[Kernel]) -> Kernel | None:
    """Taps of the row before those of the layer, as `chained` leaves them; None if it cannot be.

    whole, widths: in one group.
    """
    for seen, each, sizes in (
        (whole, list(widths), list(kernels)),
        (whole.mirrored, list(widths)[::-1], list(kernels)[::-1]),
    ):
        lefts = _plan(seen, each, sizes)
        if lefts is not None:
            kernel, off = whole.kernel, (0,) * len(whole.kernel)
            for left, last in zip(lefts, reversed(sizes[1:]), strict=True):
                off, kernel = _sum(off, middle(kernel, left, last)), left
            return _sum(off, middle(kernel, sizes[0], (1,) * len(off)))
    return None


def _plan(whole: Shapes, widths: Sequence[int], kernels: Sequence[Kernel]) -> list[Kernel] | None:
    """Taps of what is left after each split, from the last layer on, or None."""
    if not widths:
        fits = all(k <= size for k, size in zip(whole.kernel, kernels[0], strict=True))
        return [] if fits else None
    for left in _lefts(whole.kernel, kernels):
        split = replace(whole, hidden=widths[-1], first=left, second=kernels[-1])
        if not feasible(split):
            continue
        further = _plan(replace(whole, out=widths[-1], kernel=left), widths[:-1], kernels[:-1])
        if further is not None:
            return [left, *further]
    return None


def _lefts(kernel: Kernel, kernels: Sequence[Kernel]) -> Iterator[Kernel]:
    """From all the taps that the other layers have together down to as few as hold the layer."""
    most = tuple(sum(sizes) - len(sizes) + 1 for sizes in zip(*kernels[:-1], strict=True))
    last = kernels[-1]
    least = tuple(max(1, k - b + 1) for k, b in zip(kernel, last, strict=True))
    steps = max((a - b for a, b in zip(most, least, strict=True)), default=0)
    if all(a >= b for a, b in zip(most, least, strict=True)):
        for less in range(steps + 1):
            yield tuple(max(a - less, b) for a, b in zip(most, least, strict=True))


def _sum(one: Kernel, other: Kernel) -> Kernel:
    return tuple(a + b for a, b in zip(one, other, strict=True))


def _gap(kernel: Kernel, inside: Kernel, place: Kernel) -> Kernel:
    """Taps behind those of `inside`, placed in `kernel`."""
    return tuple(a - b - o for a, b, o in zip(kernel, inside, place, strict=True))
