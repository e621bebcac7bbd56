"""Make the module that takes a layer's place from the layer as it is: its weights, solved anew."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, get_args

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from gnomon.adding.plain_layer import layer_of, write
from gnomon.adding.splitting import Border, Split, Way, split
from gnomon.draw import Draw
from gnomon.errors import BadCheckpoint, NotProved, Stale
from gnomon.planning.edit import ModuleEdit
from gnomon.planning.spec import Factories, build


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
    """The split that `options_of` wrote. Raises BadCheckpoint for anything else."""
    try:
        how = Split(
            tuple(map(int, options["widths"])),
            tuple(tuple(map(int, kernel)) for kernel in options["kernels"]),
            options["border"],
            options["way"],
            float(options["kappa"]),
        )
        known = how.border in get_args(Border) and how.way in get_args(Way)
        sizes = [*how.widths, *(k for kernel in how.kernels for k in kernel)]
        valid = known and how.kappa > 0 and min(sizes) > 0
    except (KeyError, TypeError, ValueError, OverflowError):
        valid = False
    if not valid:
        raise BadCheckpoint(f"a layer cannot be split by {dict(options)}: plan again")
    return how


def factored_module(
    old: nn.Module, edit: ModuleEdit, key: str, seed: int, factories: Factories
) -> nn.Module:
    """The row of layers that computes what `old` does. Raises GrowthError if there is none."""
    how, layer = split_of(edit.options), layer_of(old)
    with torch.random.fork_rng(devices=[]):  # constructors draw
        module = build(edit.spec, factories)
    module.to(layer.weight.device)
    places = [m for m in module.modules() if isinstance(m, nn.Linear | _ConvNd)]
    planned = [place.weight.shape[2:] for place in places]
    widths = [layer_of(place).weight.shape[0] for place in places[:-1]]
    if [tuple(k) for k in planned] != list(how.kernels) or widths != list(how.widths):
        raise Stale(f"'{edit.place}' was planned as other layers than {how}: plan again")
    for place, made in zip(places, split(layer, how, Draw(seed, key)), strict=True):
        write(made, place)
    if how.border == "interior":
        _prove_inside(old, module, edit)
    return module.requires_grad_(any(p.requires_grad for p in old.parameters()))


def _prove_inside(old: nn.Module, new: nn.Module, edit: ModuleEdit) -> None:
    """Raise NotProved unless the layers agree inside the frame that the plan names.

    On random inputs of the recorded shape, in float64: no comparison of whole models would tell.
    """
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(edit.shape, generator=draw, dtype=torch.float64)
    with torch.no_grad():
        a, b = (copy.deepcopy(m).to("cpu", torch.float64).eval()(x) for m in (old, new))
    try:
        frame = [int(width) for width in edit.options["frame"]]
        inside = tuple(slice(w, n - w) for w, n in zip(frame, a.shape[2:], strict=True))
    except (KeyError, TypeError, ValueError):
        raise BadCheckpoint(f"the plan for '{edit.place}' names no frame: plan again") from None
    a, b = (y[(slice(None), slice(None), *inside)] for y in (a, b))
    limit = 1e-11 if next(old.parameters()).dtype == torch.float64 else 1e-2
    if a.shape != b.shape or not bool(((a - b).abs() <= limit * a.abs().max()).all()):
        raise NotProved(
            f"the layers for '{edit.place}' differ from it inside the frame of {frame} outputs. "
            f"Everything was undone"
        )
