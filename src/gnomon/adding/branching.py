"""A layer made into parallel paths."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gnomon import decompose
from gnomon.adding.plain_layer import Layer, Sizes, layer_of, module_of
from gnomon.blocks import Paths, R2RBlock
from gnomon.decompose.compose import Sides
from gnomon.draw import Draw, seeded_constructors
from gnomon.errors import BadCheckpoint, Unsupported
from gnomon.planning.edit import ModuleEdit
from gnomon.planning.spec import Factories


@dataclass(frozen=True)
class Branches:
    """Kernels of the paths, noise of their shares, widths if they are mixed; see `Branch`."""

    kernels: tuple[Sizes, ...]
    noise: float = 1.0
    widths: Sizes | None = None
    zero: int = 0


def options_of(how: Branches) -> dict[str, Any]:
    """The request as plain data."""
    return {
        "kernels": [list(kernel) for kernel in how.kernels],
        "noise": how.noise,
        "widths": None if how.widths is None else list(how.widths),
        "zero": how.zero,
    }


def branches_of(options: Mapping[str, Any]) -> Branches:
    """The request that `options_of` wrote. Raises BadCheckpoint for anything else."""
    try:
        widths = options["widths"]
        how = Branches(
            tuple(tuple(map(int, kernel)) for kernel in options["kernels"]),
            float(options["noise"]),
            None if widths is None else tuple(map(int, widths)),
            int(options["zero"]),
        )
        sizes = [*(how.widths or ()), *(k for kernel in how.kernels for k in kernel)]
        valid = how.kernels != () and min(sizes, default=1) > 0 and 0 <= how.noise < math.inf
        valid &= (how.zero == 0 or how.zero > 1) and (len(how.kernels) > 1 or how.zero > 0)
        valid &= how.widths is None or len(how.widths) == len(how.kernels)
    except (KeyError, TypeError, ValueError, OverflowError):
        valid = False
    if not valid:
        raise BadCheckpoint(f"a layer cannot branch by {dict(options)}: plan again")
    return how


def branched_module(
    old: nn.Module, edit: ModuleEdit, key: str, seed: int, factories: Factories
) -> nn.Module:
    """The paths that compute what `old` does. Raises GrowthError if there are none."""
    made = branched(old, branches_of(edit.options), Draw(seed, key))
    return made if any(p.requires_grad for p in old.parameters()) else made.requires_grad_(False)


def branched(old: nn.Module, how: Branches, draw: Draw | None) -> nn.Module:
    """The paths in float64 arithmetic and the layer's dtype; without a draw their shapes alone.

    Raises CannotPreserve where no paths hold the layer, Unsupported for what is not done here.
    """
    layer = layer_of(old)
    if any(len(kernel) != len(layer.kernel) for kernel in how.kernels):
        raise Unsupported(f"its kernel has {len(layer.kernel)} dimensions, not as {how.kernels}")
    if layer.extra is not None:
        raise Unsupported("a transposed convolution cannot branch: factor it into 1x1 and itself")
    trial, weight = draw is None, layer.weight
    weight = torch.zeros(weight.shape, dtype=torch.float64) if trial else weight
    draw = Draw(0, "") if draw is None else draw
    if how.widths is not None:
        if layer.groups > 1:
            raise Unsupported("a convolution in groups cannot be mixed from paths: add them")
        return _mixed(layer, weight, how, draw)
    if len(how.kernels) == 1:
        own = copy.deepcopy(old) if trial else old  # its parameters stay what they are
        return Paths([own, _zero(layer, how, draw)], dim=_dim(layer))
    made = decompose.added(weight, kernels=how.kernels, draw=draw, noise=how.noise)
    sides = made.padding(layer.sides, layer.dilation)
    rows = [_path(layer, part, side) for part, side in zip(made.weights, sides, strict=True)]
    rows[0] = Layer(**{**vars(rows[0]), "bias": layer.bias})
    paths = [module_of(row) for row in rows]
    return Paths([*paths, *([_zero(layer, how, draw)] if how.zero else [])], dim=_dim(layer))


def _mixed(layer: Layer, weight: Tensor, how: Branches, draw: Draw) -> nn.Module:
    assert how.widths is not None
    made = decompose.joined(weight, widths=how.widths, kernels=how.kernels, draw=draw)
    assert made.mix is not None
    sides = made.padding(layer.sides, layer.dilation)
    pairs = zip(made.weights, sides, strict=True)
    paths = [module_of(_path(layer, part, side)) for part, side in pairs]
    ones = (1,) * len(layer.kernel)
    nothing = ((0, 0),) * len(layer.kernel)
    mix = Layer(made.mix.to(layer.weight), layer.bias, nothing, ones, ones)
    both = OrderedDict(paths=Paths(paths, join="cat", dim=_dim(layer)), mix=module_of(mix))
    return nn.Sequential(both)


def _path(layer: Layer, weight: Tensor, sides: Sides) -> Layer:
    return Layer(
        weight.to(layer.weight), None, sides, layer.stride, layer.dilation, layer.groups, layer.mode
    )


def _dim(layer: Layer) -> int:
    return 1 if layer.kernel else -1


def _zero(layer: Layer, how: Branches, draw: Draw) -> nn.Module:
    """A path of the layer's reach that starts at zero."""
    side = max(layer.kernel, default=1)
    same = all(pair == (side // 2, side // 2) for pair in layer.sides)
    plain = set(layer.dilation) | set(layer.kernel) <= {1, side} and len(set(layer.stride)) <= 1
    if not same or not plain or side % 2 == 0 or any(d > 1 for d in layer.dilation):
        raise Unsupported(
            "a zero path needs a layer of odd square kernel, no dilation and padding of half the "
            "kernel, so that both make maps of one size: give it behind the layer with Deepen"
        )
    out, into = layer.weight.shape[0], layer.weight.shape[1] * layer.groups
    stride = layer.stride[0] if layer.stride else 1
    with seeded_constructors(int(draw.below(1 << 62, (1,)))):
        block = R2RBlock(
            into, out, how.zero, kernel_size=side, dims=len(layer.kernel), stride=stride, norm=None
        )
    return block.to(layer.weight)
