"""Dense layers without a large solve: a small exact base, and pairs that cancel.

    F1 = [A; U; U]      F2 = [B, Y, -Y]                 B A = G with one tap of B; U, Y free
    F1 = [A; -A; U; U]  F2 = [B / k, -B / k, Y, -Y]     where act(x) - act(-x) = k x

The base (A, B) costs a Cholesky of O x O and never meets padding in between; the pairs fill the
kernels and add exactly zero, in every dtype and at every border, because a cast keeps `-Y` the
negative of the cast `Y`. Partners stand side by side, which rounds six times better than blocks.
The second form passes a linear layer through relu, gelu, silu, softplus or hardswish (k = 1) and
leaky relu (k = 1 + slope) without a parametric activation.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from gnomon.decompose.factor import factored, shapes_of
from gnomon.decompose.factors import Factors, checked
from gnomon.decompose.feasible import Kernel, Shapes, Solved
from gnomon.decompose.refusal import asked
from gnomon.decompose.scale import drawn, spread
from gnomon.draw import Draw
from gnomon.errors import CannotPreserve


def base_and_pairs(
    weight: Tensor,
    *,
    hidden: int,
    kernels: tuple[Kernel, Kernel],
    draw: Draw,
    kappa: float | None = None,
    bias: Tensor | None = None,
    free: Tensor | None = None,
    off: Kernel | None = None,
    groups: int = 1,
) -> Factors:
    """Two dense layers that compute `weight`, exact under same-size padding, by the picture above.

    weight: (O, I / groups, *K). kappa: of the activation in between, None if there is none or a
    linear one. bias: (O,) of the layer. free: hidden biases, one for each channel of `base_width`
    and none for pairs; only where F1 holds the layer, as it does if K1 covers K and there is room.
    Pad the second layer by `centred(K2)`: `Factors.paddings`. Raises CannotPreserve if neither
    kernel, or too few channels, hold the layer.
    """
    weight = checked(weight)
    shapes = shapes_of(weight, hidden, kernels, groups)
    base, solved = base_width(shapes, twice=kappa is not None)
    if free is not None and solved == "second":
        raise CannotPreserve(
            f"{asked(shapes)} cannot have biases between: taps of the second layer meet padding. "
            "Leave them out, or take a first kernel that covers the layer's"
        )
    plain = factored(
        weight,
        hidden=base * groups,
        kernels=kernels,
        draw=draw,
        off=off,
        taps=(1,) * len(shapes.kernel),
        solved=solved,
        groups=groups,
    ).biased(bias, free)
    through = plain if kappa is None else antisymmetric(plain, kappa)
    return paired(through, (shapes.hidden - through.hidden // groups) // 2, draw)


def base_width(shapes: Shapes, *, twice: bool) -> tuple[int, Solved]:
    """Channels of the base in each group, before it is doubled, and which layer is solved for.

    twice: whether both signs of each are needed. As few as hold the layer, so that most are pairs.
    Raises CannotPreserve if neither kernel, or too few channels, hold it.
    """
    found: list[tuple[int, Solved]] = []
    if all(a >= k for a, k in zip(shapes.first, shapes.kernel, strict=True)):
        found.append((shapes.out, "first"))
    if all(b >= k for b, k in zip(shapes.second, shapes.kernel, strict=True)):
        found.append((shapes.into, "second"))
    if not found:
        raise CannotPreserve(
            f"{asked(shapes)} cannot be made of base and pairs: neither kernel holds the layer's. "
            "Take one of at least its size"
        )
    copies = 2 if twice else 1
    for least, solved in found:
        if copies * least > shapes.hidden:
            continue
        if not twice:
            return least + (shapes.hidden - least) % 2, solved
        if shapes.hidden % 2 == 0:
            return least, solved
    needed = copies * min(least for least, _ in found)
    raise CannotPreserve(
        f"{asked(shapes)} cannot be made of base and pairs: it takes "
        f"{'an even number of ' if twice else ''}at least {needed} channels between"
    )


def antisymmetric(factors: Factors, kappa: float = 1.0) -> Factors:
    """Both signs of every hidden channel, so that an activation in between is linear together.

    Exact for activations with `act(x) - act(-x) = kappa x`. The hidden bias b becomes b, -b; that
    of the second layer stays, because the two still compute what the factors computed linearly.
    """
    first = factors.first
    bias = factors.first_bias
    return replace(
        factors,
        first=torch.stack([first, -first], 1).flatten(0, 1),
        second=_beside(factors.second / kappa),
        first_bias=None if bias is None else torch.stack([bias, -bias], 1).flatten(),
    )


def paired(factors: Factors, pairs: int, draw: Draw, bias: Tensor | None = None) -> Factors:
    """More hidden channels, in equal twos that are read with opposite signs: they add zero.

    pairs: how many in each group. bias: (groups x pairs,) of the new channels, zero by default.
    Drawn with the deviation of the factors' non-zero entries.
    """
    if pairs == 0:
        return factors
    g = factors.groups
    first = factors.first.view(g, -1, *factors.first.shape[1:])
    second = factors.second.view(g, -1, *factors.second.shape[1:])
    fresh = drawn(draw, (g, pairs, *first.shape[2:]), spread(first))
    readers = drawn(draw, (g, second.shape[1], pairs, *second.shape[3:]), spread(second))
    readers = _beside(readers.flatten(0, 1)).view(*second.shape[:2], 2 * pairs, *second.shape[3:])
    return replace(
        factors,
        first=torch.cat([first, fresh.repeat_interleave(2, 1)], 1).flatten(0, 1),
        second=torch.cat([second, readers], 2).flatten(0, 1),
        first_bias=_paired_bias(factors, pairs, bias),
    )


def _paired_bias(factors: Factors, pairs: int, bias: Tensor | None) -> Tensor | None:
    """The hidden biases with those of the pairs behind, group by group."""
    if factors.first_bias is None and bias is None:
        return None
    old = factors.first_bias
    old = factors.first.new_zeros(factors.hidden) if old is None else old
    new = old.new_zeros(factors.groups * pairs) if bias is None else bias.double()
    new = new.view(factors.groups, -1).repeat_interleave(2, 1)
    return torch.cat([old.view(factors.groups, -1), new], 1).flatten()


def _beside(second: Tensor) -> Tensor:
    """(O, L, *K) to (O, 2 L, *K): every column followed by its negative."""
    return torch.stack([second, -second], 2).flatten(1, 2)
