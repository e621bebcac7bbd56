"""Save a grown model with its history, and load it from the small model's builder. No pickle."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from gnomon.adding.additions import build_for_load, put
from gnomon.editing.insertion import moved
from gnomon.editing.surgery import resize
from gnomon.errors import BadCheckpoint, GrowthError
from gnomon.grower import Grower
from gnomon.ops.context import OpRule
from gnomon.planning.fingerprint import structure
from gnomon.planning.plan import Plan
from gnomon.planning.spec import Factories
from gnomon.recording.tape import owned_tensors
from gnomon.rules import Rule

logger = logging.getLogger("gnomon")

_FORMAT = 2  # 2: plans list modules


def save(
    grower: Grower, path: str | os.PathLike[str], *, about: Mapping[str, str] | None = None
) -> None:
    """Write weights and history to one safetensors file, under a temporary name first.

    Tensors that share memory are written once; the others are written from where they lie.
    about: more to keep in the file's metadata, for `metadata` to find.
    Raises BadCheckpoint if the file cannot be written.
    """
    target = Path(path)
    if not grower.complete:
        raise BadCheckpoint(
            "another grower changed this model in between, so this one's history cannot rebuild "
            "it: use one Grower for all growth of a model"
        )
    history = grower.history
    needed = [name for plan in history for name in plan.factories]
    if needed:
        logger.warning(
            "'%s' holds blocks whose arguments a file cannot express: load it with gn.load(..., "
            "blocks={%s})", target, ", ".join(f"'{name}': a function" for name in needed)
        )  # fmt: skip
    tensors, aliases = _shared_once(_state(grower.model, history))
    meta = {
        "format": _FORMAT,
        "history": [json.loads(plan.to_json()) for plan in history],
        "structure": structure(grower.model),
        "aliases": aliases,
    }
    try:
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=target.name, suffix=".part")
        os.close(handle)
        try:
            texts = {**(about or {}), "format": "pt", "gnomon": json.dumps(meta)}
            save_file(tensors, temporary, metadata=texts)
            os.replace(temporary, target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except (OSError, SafetensorError) as fault:
        raise BadCheckpoint(f"'{target}' cannot be written: {fault}") from fault


def _state(model: nn.Module, history: Sequence[Plan]) -> dict[str, Tensor]:
    """The state_dict, and buffers outside of it that grew: the builder makes those too small."""
    state, grown = dict(model.state_dict()), set[str]()
    for plan in history:
        for edit in plan.modules:
            grown = {now for name in grown if (now := moved(name, edit)) is not None}
        grown |= {edit.name for edit in plan.edits}
    owned = dict(owned_tensors(model))
    lost = sorted(grown - owned.keys() - state.keys())
    if lost:
        raise BadCheckpoint(f"{lost[:4]} grew, but the model no longer has tensors of these names")
    return state | {name: owned[name] for name in grown if name not in state}


def _shared_once(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[tuple[int, int, tuple[int, ...], tuple[int, ...]], str] = {}
    memories: set[int] = set()
    for name, tensor in state.items():
        if isinstance(tensor, Tensor) and tensor.is_meta:
            raise BadCheckpoint(
                f"'{name}' is on 'meta' and has no numbers to save: load them first"
            )
        if not isinstance(tensor, Tensor):
            raise BadCheckpoint(
                f"'{name}' in the state_dict is {type(tensor).__name__}, not a tensor: "
                f"a safetensors file cannot hold it"
            )
        key = (tensor.data_ptr(), tensor.numel(), tuple(tensor.shape), tuple(tensor.stride()))
        if tensor.numel() and key in first:
            aliases[name] = first[key]
        else:
            first[key] = name
            own = tensor.detach().contiguous()
            memory = own.untyped_storage().data_ptr()
            tensors[name] = own.clone() if memory in memories else own  # views are written apart
            memories.add(memory)
    return tensors, aliases


def load(
    path: str | os.PathLike[str],
    build: Callable[[], nn.Module],
    example_inputs: object = None,
    *,
    blocks: Mapping[str, Callable[..., nn.Module]] | None = None,
    ops: Mapping[str, OpRule] | None = None,
    rules: Sequence[type[Rule]] = (),
) -> nn.Module:
    """Build the small model, grow it through the file's history, and load the weights.

    build:          makes the model as it was before its first growth. Where its parameters are on
                    `meta`, those of the file are put in their place and stay mapped from it.
    example_inputs: if given, the loaded model is analysed on them once, so that a model whose
                    code no longer runs in these shapes is found now.
    blocks:         for blocks that `Deepen` put in: classes, or functions that make a module, by
                    class path; needed for your own classes that the small model does not use, and
                    for those whose arguments a file cannot express (`gn.save` says which).
    ops, rules:     op rules for that analysis, and rule classes of your own in the history.
    Raises BadCheckpoint for a file that is truncated, foreign, tampered with or of another model.
    """
    with _opened(path) as file:
        meta = _metadata(file, path)
        model = build()
        plans = [_plan(data, path, rules) for data in meta["history"]]
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
        for plan in plans:
            _replay(model, plan, path, dict(blocks or {}), sum(map(prod, shapes.values())))
        if structure(model) != meta["structure"]:
            raise BadCheckpoint(
                f"'{path}' does not fit what {_name(build)}() makes: names, shapes, dtypes or "
                f"classes differ from the model that was saved"
            )
        _fill(model, _state(model, plans), file, shapes, meta["aliases"], path)
    if example_inputs is not None:
        Grower(model, example_inputs, ops=ops)
    return model


def metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The texts that a safetensors file keeps beside its tensors. Raises BadCheckpoint."""
    with _opened(path) as file:
        return dict(file.metadata() or {})


def growths(path: str | os.PathLike[str], *, rules: Sequence[type[Rule]] = ()) -> tuple[Plan, ...]:
    """The growths in a file that `save` wrote: the history of a grower that goes on from it.

    Raises BadCheckpoint as `load` does.
    """
    with _opened(path) as file:
        return tuple(_plan(data, path, rules) for data in _metadata(file, path)["history"])


def _name(build: Callable[[], nn.Module]) -> str:
    return getattr(build, "__qualname__", type(build).__name__)


def _opened(path: str | os.PathLike[str]) -> Any:
    if not Path(path).is_file():
        raise BadCheckpoint(f"'{path}' is not a file")
    try:
        return safe_open(str(path), framework="pt")
    except (SafetensorError, OSError, ValueError) as fault:
        raise BadCheckpoint(
            f"'{path}' is not a whole safetensors file ({fault}). A pickle (.pt, .pth) is refused: "
            f"load its state_dict with weights_only=True and save the model with gn.save"
        ) from None


def _metadata(file: Any, path: object) -> dict[str, Any]:
    text = (file.metadata() or {}).get("gnomon")
    if text is None:
        raise BadCheckpoint(f"'{path}' was not written by gnomon: it has no history")
    try:
        meta = json.loads(text)
        known = meta["format"] == _FORMAT
        valid = isinstance(meta["history"], list) and isinstance(meta["aliases"], dict)
        valid = valid and isinstance(meta["structure"], str)
        valid = valid and all(isinstance(name, str) for name in meta["aliases"].values())
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BadCheckpoint(f"'{path}' has a history that cannot be read") from None
    if not known:
        raise BadCheckpoint(f"'{path}' has format {meta['format']!r}; this gnomon reads {_FORMAT}")
    if not valid:
        raise BadCheckpoint(f"'{path}' has a history that cannot be read")
    return dict(meta)


def _plan(data: object, path: object, rules: Sequence[type[Rule]]) -> Plan:
    try:
        return Plan.from_json(json.dumps(data), rules)
    except BadCheckpoint as fault:
        raise BadCheckpoint(f"'{path}': {fault}") from None


def _replay(model: nn.Module, plan: Plan, path: object, factories: Factories, most: int) -> None:
    digest = plan.fingerprint.partition("-")[0]
    if structure(model) != digest:
        raise BadCheckpoint(
            f"'{path}': {plan.morph} was applied to a model with other names, shapes, dtypes or "
            f"classes; build the model as it was before its first growth"
        )
    try:
        for edit in plan.modules:
            put(model, edit, build_for_load(model, edit, factories, most))
        resize(model, plan)
    except BadCheckpoint as fault:
        raise BadCheckpoint(f"'{path}' cannot be loaded: {fault}") from None
    except (GrowthError, RuntimeError, IndexError, KeyError, TypeError, ValueError) as fault:
        raise BadCheckpoint(f"'{path}': its history does not fit the model ({fault})") from None


def _fill(
    model: nn.Module,
    state: Mapping[str, Tensor],
    file: Any,
    shapes: Mapping[str, tuple[int, ...]],
    aliases: Mapping[str, str],
    path: object,
) -> None:
    """Copy the file's numbers into a model's tensors, those that shared memory when saved too."""
    held = {name: name for name in shapes} | dict(aliases)
    found = {name: shapes.get(source) for name, source in held.items()}
    wanted = {name: tuple(t.shape) for name, t in state.items()}
    if wanted != found:
        odd = sorted(n for n in wanted.keys() | found.keys() if wanted.get(n) != found.get(n))
        raise BadCheckpoint(f"'{path}' does not fit the model: {odd[:4]} differ")
    holders = _holders(model)
    with torch.no_grad():
        for name, source in held.items():
            value = file.get_tensor(source)
            if value.dtype != state[name].dtype:
                raise BadCheckpoint(f"'{path}': '{name}' is {value.dtype}, not {state[name].dtype}")
            if name not in holders:
                state[name].copy_(value)
                continue
            first, own = holders[name][0]
            new = nn.Parameter(value, requires_grad=first[own].requires_grad)
            for place, key in holders[name]:
                place[key] = new


def _holders(model: nn.Module) -> dict[str, list[tuple[dict[str, Any], str]]]:
    """Per name of a parameter on `meta`, every place that holds it: what is tied stays tied."""
    places: dict[int, list[tuple[dict[str, Any], str]]] = {}
    for module in model.modules():
        for key, p in module._parameters.items():
            if p is not None and p.is_meta:
                places.setdefault(id(p), []).append((module._parameters, key))
    every = model.named_parameters(remove_duplicate=False)
    return {name: places[id(p)] for name, p in every if p.is_meta}
