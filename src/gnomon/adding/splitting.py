"""Split a layer into several in a row that together compute the same.

Padding goes in front of the first of the new layers, where it is exact whatever they contain;
between them it would put zeros in the place of numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gnomon.adding.plain_layer import Layer, Sizes
from gnomon.decompose import (
    Chain,
    antisymmetric,
    base_and_pairs,
    base_width,
    bordered,
    case,
    centred,
    chained,
    factored,
    memory,
    middle,
    placed,
    shapes_of,
)
from gnomon.decompose.compose import Sides
from gnomon.decompose.factors import Factors
from gnomon.decompose.refusal import asked, no_case
from gnomon.draw import Draw
from gnomon.errors import CannotPreserve, Unsupported

MOST_MEMORY = 1_500_000_000  # bytes that solving for a layer may take

Border = Literal["exact", "same", "interior"]
Way = Literal["linear", "gate", "pairs"]


@dataclass(frozen=True)
class Split:
    """How a layer is to be split: one kernel more than there are widths between.

    kappa: of the activation between, where it is passed by antisymmetric pairs.
    """

    widths: Sizes
    kernels: tuple[Sizes, ...]
    border: Border = "exact"
    way: Way = "linear"
    kappa: float = 1.0


def split(layer: Layer, how: Split, draw: Draw | None) -> list[Layer]:
    """The new layers; without a draw only their shapes, with zeros for weights.

    Raises CannotPreserve if there are no such layers, Unsupported for what is not done here.
    """
    _check(layer, how)
    if draw is None:
        weights, off, rest = _hollow(layer, how)
    else:
        weights, off, rest = _solved(layer.weight.double().cpu(), layer, how, draw)
    sides = _sides(layer, how, off, rest)
    strided = _strided(how)
    layers = []
    for i, (weight, own) in enumerate(zip(weights, sides, strict=True)):
        last, dims = i == len(weights) - 1, len(layer.kernel)
        bias = None if layer.bias is None else weight.new_zeros(weight.shape[0])
        layers.append(
            Layer(
                weight.to(layer.weight),
                bias if not last or layer.bias is None else layer.bias,
                own,
                layer.stride if i == strided else (1,) * dims,
                layer.dilation,
                layer.groups,
                layer.mode if any(any(pair) for pair in own) else "zeros",
                layer.extra if i == _transposed(layer, how) else None,
            )
        )
    return layers


def _check(layer: Layer, how: Split) -> None:
    dims = len(layer.kernel)
    if len(how.kernels) != len(how.widths) + 1 or any(len(k) != dims for k in how.kernels):
        raise Unsupported(
            f"kernels {how.kernels} do not fit: one more than there are widths between "
            f"({how.widths}), each of {dims} dimensions"
        )
    if any(width % layer.groups for width in how.widths):
        raise Unsupported(f"widths {how.widths} must be multiples of its {layer.groups} groups")
    if how.way == "pairs" and any(width % (2 * layer.groups) for width in how.widths):
        raise Unsupported(f"antisymmetric pairs need even widths, not {how.widths}")
    if layer.extra is not None and (len(how.widths) > 1 or _transposed(layer, how) is None):
        raise Unsupported("a transposed convolution splits off one layer of 1x1 only")
    at = _transposed(layer, how)
    if at is not None and how.kernels[at] != layer.kernel:
        raise Unsupported(f"a transposed convolution keeps its kernel, {layer.kernel}: Enlarge it")
    if how.border == "same" and len(how.widths) > 1:
        raise Unsupported("border='same' is there for two layers, not for a row of more")


def _transposed(layer: Layer, how: Split) -> int | None:
    """Which of two layers goes on being transposed: the one that is not 1x1."""
    if layer.extra is None:
        return None
    points = [all(k == 1 for k in kernel) for kernel in how.kernels]
    return 0 if points[-1] else (len(points) - 1 if points[0] else None)


def _strided(how: Split) -> int:
    """A stride belongs to the last layer, or before it where only 1x1 layers follow."""
    points = [all(k == 1 for k in kernel) for kernel in how.kernels]
    last = len(points) - 1
    while last and points[last]:
        last -= 1
    return last


def _hollow(layer: Layer, how: Split) -> tuple[list[Tensor], Sizes, Sizes]:
    """Zeros of the new shapes, if there are such layers, and where G lies in them."""
    g = layer.groups
    channels = [layer.weight.shape[1] * g, *how.widths, layer.weight.shape[0]]
    weights = [
        torch.zeros(out, into // g, *kernel, dtype=torch.float64)
        for into, out, kernel in zip(channels, channels[1:], how.kernels, strict=False)
    ]
    extent = tuple(sum(ks) - len(how.kernels) + 1 for ks in zip(*how.kernels, strict=True))
    off = _place(layer, how)
    rest = tuple(e - k - o for e, k, o in zip(extent, layer.kernel, off, strict=True))
    return weights, off, rest


def _place(layer: Layer, how: Split) -> Sizes:
    """Taps before those of G, as solving will leave them. Raises CannotPreserve if it cannot."""
    g, pairs = layer.groups, how.way == "pairs"
    halves = [width // (2 if pairs else 1) for width in how.widths]
    ends = how.kernels[0], how.kernels[-1]
    if len(halves) == 1:
        shapes = shapes_of(layer.weight, halves[0], ends, g)
        if how.border == "same":
            base_width(shapes_of(layer.weight, how.widths[0], ends, g), twice=pairs)
        elif case(shapes) is None:
            raise CannotPreserve(no_case(shapes))
        return middle(layer.kernel, *ends)
    whole = shapes_of(layer.weight, halves[-1], ends, g)
    off = placed(whole, [width // g for width in halves], how.kernels)
    if off is None:
        raise CannotPreserve(
            f"{asked(whole)} has no such row with {how.widths} channels between: from whichever "
            f"end it is split, some split has fewer unknowns than equations. Take more channels"
        )
    return off


def _solved(
    whole: Tensor, layer: Layer, how: Split, draw: Draw
) -> tuple[list[Tensor], Sizes, Sizes]:
    g, pairs = layer.groups, how.way == "pairs"
    if len(how.widths) > 1:
        halves = [width // 2 for width in how.widths] if pairs else list(how.widths)
        chain = chained(whole, widths=halves, kernels=how.kernels, draw=draw, groups=g)
        return _signed(chain, how.kappa) if pairs else list(chain.weights), chain.off, chain.rest
    (hidden,), (k1, k2) = how.widths, how.kernels
    kernels = (k1, k2)
    if how.border == "same":
        two = _same_size(whole, layer, how, draw)
    elif pairs:
        two = antisymmetric(_dense(whole, hidden // 2, kernels, draw, g), how.kappa)
    else:
        two = _dense(whole, hidden, kernels, draw, g)
    return [two.first, two.second], two.off, two.rest


def _same_size(whole: Tensor, layer: Layer, how: Split, draw: Draw) -> Factors:
    """Hidden maps of the same size: solved for with the borders if that can be, else pairs."""
    (hidden,), (k1, k2), g = how.widths, how.kernels, layer.groups
    if how.way != "pairs" and layer.mode == "zeros":
        off, rest = _hollow(layer, how)[1:]
        before, behind = _sides(layer, how, off, rest)
        try:
            return bordered(
                whole, hidden=hidden, kernels=(k1, k2), padding=(before, behind), draw=draw,
                dilation=layer.dilation, groups=g, budget=MOST_MEMORY,
            )  # fmt: skip
        except (CannotPreserve, Unsupported):
            pass  # too few channels between, or too large: pairs will do
    kappa = how.kappa if how.way == "pairs" else None
    return base_and_pairs(whole, hidden=hidden, kernels=(k1, k2), draw=draw, kappa=kappa, groups=g)


def _dense(
    whole: Tensor, hidden: int, kernels: tuple[Sizes, Sizes], draw: Draw, groups: int
) -> Factors:
    """Solved for as a whole, or a small base and pairs where that would take too much memory."""
    try:
        return factored(
            whole, hidden=hidden, kernels=kernels, draw=draw, groups=groups, budget=MOST_MEMORY
        )
    except Unsupported:
        return base_and_pairs(whole, hidden=hidden, kernels=kernels, draw=draw, groups=groups)


def memory_of(layer: Layer, how: Split) -> int:
    """Bytes that solving will take at most beside the layer; 0 where pairs make it small, or rows.

    See `gnomon.decompose.memory`; above MOST_MEMORY base and pairs are taken instead.
    """
    if len(how.widths) > 1 or how.border == "same":
        return 0
    hidden = how.widths[0] // (2 if how.way == "pairs" else 1)
    chosen = case(shapes_of(layer.weight, hidden, (how.kernels[0], how.kernels[1]), layer.groups))
    return 0 if chosen is None else memory(chosen)


def _signed(chain: Chain, kappa: float) -> list[Tensor]:
    """Both signs of every hidden channel, all along a chain."""
    weights = []
    for i, weight in enumerate(chain.weights):
        if i:
            weight = torch.stack([weight, -weight], 2).flatten(1, 2) / kappa
        if i < len(chain.weights) - 1:
            weight = torch.stack([weight, -weight], 1).flatten(0, 1)
        weights.append(weight)
    return weights


def _sides(layer: Layer, how: Split, off: Sizes, rest: Sizes) -> list[Sides]:
    """Padding of each layer: all in front, or between them too where that was asked for."""
    nothing: Sides = ((0, 0),) * len(layer.kernel)
    if layer.extra is not None:
        return [layer.sides if i == _transposed(layer, how) else nothing for i in range(2)]
    between = [nothing] * len(how.widths)
    if how.border != "exact":
        between = [centred(kernel, layer.dilation) for kernel in how.kernels[1:]]
    taken = [
        [sum(pair[e] for pair in column) for e in (0, 1)] for column in zip(*between, strict=True)
    ]
    first = tuple(
        (p + d * o - t[0], q + d * r - t[1])
        for (p, q), d, o, r, t in zip(layer.sides, layer.dilation, off, rest, taken, strict=True)
    )
    if any(min(pair) < 0 for pair in first):
        raise Unsupported(
            f"border={how.border!r} needs more padding than the layer has ({layer.sides}): use "
            f"border='exact'"
        )
    return [first, *between]
