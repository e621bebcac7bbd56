"""Make the module that takes a layer's place from the layer as it is: its weights, solved anew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd

from gnomon.draw import Draw
from gnomon.edit import ModuleEdit
from gnomon.errors import Stale
from gnomon.spec import Factories, build
from gnomon.splitting import Split, layer_of, split, write


def options_of(how: Split) -> dict[str, Any]:
    """A split as plain data."""
    return {
        "widths": list(how.widths),
        "kernels": [list(kernel) for kernel in how.kernels],
        "border": how.border,
        "way": how.way,
        "kappa": how.kappa,
    }


def split_of(options: Mapping[str, Any]) -> Split:
    """The split that `options_of` wrote."""
    return Split(
        tuple(map(int, options["widths"])),
        tuple(tuple(map(int, kernel)) for kernel in options["kernels"]),
        options["border"],
        options["way"],
        float(options["kappa"]),
    )


def factored_module(
    old: nn.Module, edit: ModuleEdit, key: str, seed: int, factories: Factories
) -> nn.Module:
    """The row of layers that computes what `old` does. Raises GrowthError if there is none."""
    module = build(edit.spec, factories)
    like = next(old.parameters())
    module.to(like.device)
    layers = split(layer_of(old), split_of(edit.options), Draw(seed, key))
    places = [m for m in module.modules() if isinstance(m, nn.Linear | _ConvNd)]
    if len(places) != len(layers):
        raise Stale(f"'{edit.place}' was planned as {len(places)} layers, not {len(layers)}")
    for place, layer in zip(places, layers, strict=True):
        write(layer, place)
    return module
