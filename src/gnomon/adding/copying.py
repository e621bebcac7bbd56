"""Copies of a block of a stack, whose branches end in zero."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gnomon.adding.residual_branches import spread
from gnomon.adding.zero import ZeroStart, check_zero, classes_of_twins, write_zero
from gnomon.draw import Draw
from gnomon.errors import Stale, Unsupported
from gnomon.planning.edit import ModuleEdit
from gnomon.planning.notation import tensor_edit
from gnomon.planning.plan import Plan
from gnomon.recording.tape import owned_tensors
from gnomon.rules import R2R


def copied_module(
    model: nn.Module, edit: ModuleEdit, key: str, seed: int
) -> tuple[nn.Module, tuple[tuple[nn.Module, ZeroStart], ...]]:
    """A copy of a block of the model that computes what it is given, and its zero starts.

    Raises NotProved or Unsupported if it cannot be.
    """
    made = copy_of(model, str(edit.options["of"]))
    starts = []
    for branch in edit.options["branches"]:
        if edit.options["number"]:
            _redraw(made, branch["redrawn"], key, seed)
        if branch["twins"] is None:
            _zero(made, branch["zero"])
            continue
        start = _zero_start(branch["twins"], key)
        write_zero(owned_tensors(made), start, seed)
        starts.append((made, start))
    for _, start in starts:
        check_zero(made, start)
    return made, tuple(starts)


def copy_of(model: nn.Module, path: str) -> nn.Module:
    """A copy of a module; it shares what the module shares with the rest of the model.

    Raises Stale if there is none, Unsupported if it cannot be copied.
    """
    try:
        block = model.get_submodule(path)
    except AttributeError:
        raise Stale(f"there is no module '{path}' to copy: plan again") from None
    memo: dict[int, Any] = {id(thing): thing for thing in _held_outside(model, block, path)}
    if id(block) in memo:
        raise Unsupported(f"'{path}' is held by another module too, so a copy would not be its own")
    try:
        made = copy.deepcopy(block, memo)
    except Exception as fault:  # whatever foreign code raises, and tensors with a graph
        raise Unsupported(
            f"'{path}' cannot be copied ({type(fault).__name__}: {fault}); run no forward pass in "
            f"train mode before, or delete what it cached"
        ) from fault
    assert isinstance(made, nn.Module)
    return made


def own_tensors(model: nn.Module, path: str) -> set[str]:
    """The names of the tensors that a module holds and the rest of the model does not."""
    block = model.get_submodule(path)
    outside = {id(thing) for thing in _held_outside(model, block, path)}
    mine = {id(t) for t in owned_tensors(block).values()} - outside
    return {name for name, t in owned_tensors(model).items() if id(t) in mine}


def _held_outside(model: nn.Module, block: nn.Module, path: str) -> Iterator[object]:
    """What the rest of the model holds: modules, their tensors, settings such as a `config`."""
    for name, module in model.named_modules(remove_duplicate=False):
        if name == path or name.startswith(f"{path}."):
            continue
        yield module
        yield from (p for p in module._parameters.values() if p is not None)
        yield from (b for b in module._buffers.values() if b is not None)
        for value in vars(module).values():
            if hasattr(value, "__dict__") and value is not block:
                yield value


def _zero_start(data: Mapping[str, Any], key: str) -> ZeroStart:
    group, edits = str(data["group"]), tuple(map(tensor_edit, data["edits"]))
    e = classes_of_twins(int(data["channels"]), int(data["twins"]))
    plan = Plan(key, R2R(), 0, "", {group: e}, edits, (), ())
    return ZeroStart(group, plan, data["bias"], float(data["root"]))


@torch.no_grad()
def _zero(module: nn.Module, names: list[str]) -> None:
    owned = owned_tensors(module)
    for name in names:
        owned[name].zero_()


@torch.no_grad()
def _redraw(module: nn.Module, names: list[str], key: str, seed: int) -> None:
    """Give last kernels other weights of their spread: equal copies would learn alike."""
    owned = owned_tensors(module)
    for name in names:
        kernel: Tensor = owned[name]
        if kernel.dim() > 1 and not kernel.is_meta:
            draw = Draw(seed, f"{key}.{name}", 0, spread(kernel))
            kernel.copy_(draw.weights(kernel.shape).to(kernel))
