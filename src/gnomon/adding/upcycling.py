"""A layer made into a mixture of its copies, which its optimizer goes along with."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gnomon.adding.copying import copy_of
from gnomon.blocks import Upcycled
from gnomon.draw import Draw
from gnomon.editing.optimizers import MOMENTS
from gnomon.editing.surgery import Surgery
from gnomon.errors import BadCheckpoint, Stale
from gnomon.planning.edit import ModuleEdit
from gnomon.planning.spec import Factories
from gnomon.recording.tape import owned_tensors


def upcycled_module(
    old: nn.Module, edit: ModuleEdit, key: str, seed: int, factories: Factories
) -> nn.Module:
    """The mixture; its first expert is the layer itself. Raises Stale or BadCheckpoint."""
    count, _, width, kernels = _options(edit.options)
    made = _mixture(edit, [old, *(copy.deepcopy(old) for _ in range(count - 1))])
    like = next((p for p in old.parameters() if p.is_floating_point()), torch.empty(0))
    made.router.to(like)
    made.router.requires_grad_(any(p.requires_grad for p in old.parameters()))
    if like.is_meta:
        return made
    twice = 2 if kernels else 1
    draw = Draw(seed, f"{key}.router.weight", 0, edit.std or width**-0.5)
    rows = draw.weights(torch.Size((count // twice, width))).repeat_interleave(twice, 0)
    with torch.no_grad():
        made.router.weight.copy_(rows)
    return made


def part_experts(
    mixture: nn.Module,
    edit: ModuleEdit,
    key: str,
    seed: int,
    optimizers: Sequence[Optimizer],
    surgery: Surgery,
) -> None:
    """Let each two experts divide their last kernels, and give all of them the optimizer's state.

    An expert is asked for a part of the rows, so the moments are divided by the number of experts.
    """
    assert isinstance(mixture, Upcycled)
    count, _, _, kernels = _options(edit.options)
    parts = [owned_tensors(expert) for expert in mixture.experts]
    if any(name not in parts[0] for name in kernels):
        raise Stale(f"'{edit.place}' has no tensors {kernels}: plan again")
    for name in kernels:
        before = parts[0][name].detach().clone()
        surgery.on_undo(_putting_back(parts[0][name], before))
        for i in range(0, count, 2):
            draw = Draw(seed, f"{key}.{i}.{name}")
            mine = draw.below(2, tuple(before.shape)).to(before)
            with torch.no_grad():
                parts[i][name].copy_(2 * mine * before)
                parts[i + 1][name].copy_(2 * (1 - mine) * before)
    for optimizer in optimizers:
        for name, tensor in parts[0].items():
            if tensor in optimizer.state:
                _share_state(optimizer, [part[name] for part in parts], surgery)


def upcycled_for_load(model: nn.Module, edit: ModuleEdit, most: int) -> nn.Module:
    """The mixture without its values, for a file of `most` numbers. Raises BadCheckpoint."""
    count, _, width, _ = _options(edit.options)
    first = copy_of(model, edit.place)
    size = sum(t.numel() for t in first.parameters())
    if count * (size + width) > most:
        raise BadCheckpoint(f"{count} experts are named, but only {most:,} numbers are there")
    made = _mixture(edit, [first, *(copy.deepcopy(first) for _ in range(count - 1))])
    made.router.to(next((p for p in first.parameters() if p.is_floating_point()), torch.empty(0)))
    made.router.requires_grad_(any(p.requires_grad for p in first.parameters()))
    return made.train(model.get_submodule(edit.place).training)


def _mixture(edit: ModuleEdit, experts: Sequence[nn.Module]) -> Upcycled:
    _, top_k, width, _ = _options(edit.options)
    with torch.random.fork_rng(devices=[]):  # constructors draw
        return Upcycled(experts, width=width, top_k=top_k)


def _options(options: Mapping[str, Any]) -> tuple[int, int, int, list[str]]:
    try:
        count, top_k, width = (int(options[n]) for n in ("experts", "top_k", "width"))
        kernels = [str(name) for name in options["kernels"]]
        valid = 1 <= top_k <= count and width > 0 and (not kernels or count % 2 == top_k % 2 == 0)
    except (KeyError, TypeError, ValueError, OverflowError):
        valid = False
    if not valid:
        raise BadCheckpoint(f"a layer cannot be upcycled by {dict(options)}: plan again")
    return count, top_k, width, kernels


def _putting_back(tensor: Tensor, before: Tensor) -> Any:
    def undo() -> None:
        with torch.no_grad():
            tensor.copy_(before)

    return undo


def _share_state(optimizer: Optimizer, experts: Sequence[Tensor], surgery: Surgery) -> None:
    state = optimizer.state[experts[0]]
    whole = dict(state)

    def undo() -> None:
        for expert in experts[1:]:
            optimizer.state.pop(expert, None)
        optimizer.state[experts[0]] = state
        state.update(whole)

    surgery.on_undo(undo)
    for expert in experts:
        optimizer.state[expert] = {k: _share(k, v, len(experts)) for k, v in whole.items()}


def _share(key: str, value: object, count: int) -> object:
    if not isinstance(value, Tensor):
        return copy.deepcopy(value)
    degree = MOMENTS[key].degree if key in MOMENTS and value.dim() else 0
    return value.clone() / count**degree if degree else value.clone()
