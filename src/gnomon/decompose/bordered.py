"""Dense layers with same-size maps that are exact even where padding cuts the hidden map off."""

from __future__ import annotations

import math

from torch import Tensor

from gnomon.decompose.compose import Sides
from gnomon.decompose.equations import Dimension, bordered_dimension
from gnomon.decompose.factor import shapes_of, solved_in_groups
from gnomon.decompose.factors import Factors, checked, middle
from gnomon.decompose.feasible import Case, Kernel, Shapes
from gnomon.decompose.refusal import asked
from gnomon.draw import Draw
from gnomon.errors import CannotPreserve


def bordered(
    weight: Tensor,
    *,
    hidden: int,
    kernels: tuple[Kernel, Kernel],
    padding: tuple[Sides, Sides],
    draw: Draw,
    dilation: Kernel = (),
    off: Kernel | None = None,
    groups: int = 1,
    budget: int | None = None,
) -> Factors:
    """Two dense layers that compute `weight` up to zero-padded borders, with padding in between.

    padding: of the first and of the second layer. Holds for maps of every size, one dilation for
    both layers, stride 1 of the first and any of the second, and no bias in between. For 3x3
    twice, padding 1: 49 O equations in 9 L unknowns per input channel, so L >= 5.45 O.
    Raises CannotPreserve below that, and where all of a tap is lost at a border.
    """
    weight = checked(weight)
    shapes = shapes_of(weight, hidden, kernels, groups)
    at = middle(shapes.kernel, *kernels) if off is None else off
    dimensions = _dimensions(shapes, padding, dilation, at)
    rows = math.prod(one.rows for one in dimensions)
    chosen = _chosen(shapes, rows)
    if chosen is None:
        raise CannotPreserve(
            f"{asked(shapes)} and padding {padding[1]} in front of the second layer cannot be "
            f"exact at the borders: {rows} equations for each pair of channels need "
            f"{smallest_bordered_width(shapes, padding, dilation, off)} channels between. "
            "Take as many, put all padding in front of the first layer, or take base and pairs"
        )
    if chosen.solved == "second":
        dimensions = [one.mirrored for one in dimensions]
    return solved_in_groups(weight, chosen, dimensions, at, draw=draw, groups=groups, budget=budget)


def smallest_bordered_width(
    shapes: Shapes, padding: tuple[Sides, Sides], dilation: Kernel = (), off: Kernel | None = None
) -> int:
    """The fewest hidden channels with which `bordered` has as many unknowns as equations."""
    at = middle(shapes.kernel, shapes.first, shapes.second) if off is None else off
    rows = math.prod(one.rows for one in _dimensions(shapes, padding, dilation, at))
    return min(
        -(-shapes.out * rows // math.prod(shapes.first)),
        -(-shapes.into * rows // math.prod(shapes.second)),
    )


def _chosen(shapes: Shapes, rows: int) -> Case | None:
    """Which layer has enough unknowns for so many rows; every tap of the other one is drawn."""
    for seen, side in ((shapes, "first"), (shapes.mirrored, "second")):
        if seen.hidden * math.prod(seen.first) >= seen.out * rows:
            return Case(seen, "first" if side == "first" else "second", seen.second)
    return None


def _dimensions(
    shapes: Shapes, padding: tuple[Sides, Sides], dilation: Kernel, at: Kernel
) -> list[Dimension]:
    """The equations of each dimension, in the order of the layers."""
    steps = dilation or (1,) * len(at)
    return [
        bordered_dimension(k1, k2, padding=(one, two), dilation=d, held=range(o, o + k))
        for k1, k2, one, two, d, o, k in zip(
            shapes.first, shapes.second, *padding, steps, at, shapes.kernel, strict=True
        )
    ]
