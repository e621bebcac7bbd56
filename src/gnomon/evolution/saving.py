"""The state of a search as text and tensors, in one safetensors file. No pickle.

Networks are not stored: the same base, mutated along its lineage, has the same structure and
shares the same parameters; their values are then put in. So each shared tensor is stored once.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gnomon.errors import BadCheckpoint, GrowthError
from gnomon.evolution.budget import Spent
from gnomon.evolution.population.birth import child, immigrant, made_along
from gnomon.evolution.population.lineage import Lineage, lineage_of
from gnomon.evolution.population.member import Member, distinct
from gnomon.evolution.population.mutation import mutation_of

if TYPE_CHECKING:
    from gnomon.evolution.evolution import Evolution

_FORMAT = 1
_META = "gnomon.evolution"


def state_of(evolution: Evolution) -> dict[str, Any]:
    """{"meta": JSON, "tensors": by name}: a snapshot that later steps do not change.

    Also of an open round, whose members are asked for and not told yet.
    """
    members = evolution.members
    parameters = distinct(members)
    tensors: dict[str, Tensor] = {f"parameter|{key}": p for key, p in parameters.items()}
    numbers: dict[str, dict[str, Any]] = {}
    for key, state in evolution.optimizer.tensors(parameters).items():
        numbers[key] = {}
        for name, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer|{key}|{name}"] = value
            else:
                numbers[key][name] = value
    for member in members:
        for name, buffer in member.network.named_buffers():
            tensors[f"buffer|{member.id}|{name}"] = buffer
    if evolution.correct is not None:
        tensors["correct"] = evolution.correct
    meta = {
        "format": _FORMAT,
        "search": identity(evolution),
        "round": evolution.round,
        "open": evolution._open,
        "spent": asdict(evolution.spent),
        "members": [[m.id, None if math.isnan(m.score) else m.score] for m in members],
        "lineage": evolution.lineage.to_json(),
        "optimizer": numbers,
    }
    kept = {name: t.detach().clone() for name, t in tensors.items()}
    return {"meta": json.dumps(meta), "tensors": kept}


def identity(evolution: Evolution) -> dict[str, str]:
    """What a search must have in common with one that goes on from its checkpoint."""
    settings = {k: v for k, v in asdict(evolution.settings).items() if k != "rounds"}
    return {
        "space": evolution.space.signature,
        "selection": repr(evolution.selection),
        "settings": repr(settings),
        "optimizer": repr(evolution.optimizer),
        "seed": repr(evolution.seed),
    }


def restore(evolution: Evolution, state: Mapping[str, Any]) -> None:
    """Put a state into an evolution; nothing is changed if it does not fit."""
    try:
        meta, tensors = json.loads(state["meta"]), dict(state["tensors"])
        _check(meta, identity(evolution))
        lineage = lineage_of(meta["lineage"])
        living = [(int(number), score) for number, score in meta["members"]]
        members = _rebuilt(evolution, lineage, living)
        states = _put_in(members, tensors, meta["optimizer"])
        spent, told = Spent(**meta["spent"]), int(meta["round"])
        correct = tensors.get("correct")
    except BadCheckpoint:
        raise
    except (GrowthError, KeyError, TypeError, ValueError, AttributeError, RuntimeError) as fault:
        raise BadCheckpoint(f"a search cannot be read from its checkpoint: {fault!r}") from None
    evolution.optimizer.load(states, distinct(members))
    for member in members:
        evolution.optimizer.adopt(member)
    evolution.members, evolution.lineage = tuple(members), lineage
    evolution.spent, evolution.round, evolution.correct = spent, told, correct
    evolution._open = bool(meta.get("open", False))


def _check(meta: Mapping[str, Any], own: Mapping[str, str]) -> None:
    if meta["format"] != _FORMAT:
        raise BadCheckpoint(f"it has format {meta['format']!r}; this gnomon reads {_FORMAT}")
    for name, value in own.items():
        found = meta["search"][name]
        if found != value:
            raise BadCheckpoint(
                f"the checkpoint is of another search: its {name} is {found}, not {value}. Build "
                f"the Evolution as it was (rounds and budget may differ), or begin a new one"
            )


def _rebuilt(
    evolution: Evolution, lineage: Lineage, living: Sequence[tuple[int, float | None]]
) -> list[Member]:
    """The living members with their ancestors' mutations, their values still to be put in."""
    space, seed = evolution.space, evolution.seed
    made = dict[int, Member]()
    members = []
    for number, score in living:
        root, *rest = lineage.path(number)
        if root.id not in made:
            begun = made_along(space, lineage.way(root.id, seed), device=evolution.device)
            origin = root.origin
            made[root.id] = (
                begun if origin is None else immigrant(begun, origin, id=root.id, born=root.born)
            )
        for birth in rest:
            if birth.id not in made:
                assert birth.parent is not None and birth.mutation is not None
                mutation = mutation_of(birth.mutation, space)
                made[birth.id] = child(
                    space, made[birth.parent], mutation,
                    id=birth.id, born=birth.born, seed=seed,
                )  # fmt: skip
        members.append(replace(made[number], score=math.nan if score is None else score))
    return members


@torch.no_grad()
def _put_in(
    members: Sequence[Member],
    tensors: Mapping[str, Tensor],
    numbers: Mapping[str, Mapping[str, Any]],
) -> dict[str, dict[str, Any]]:
    """Write values into parameters and buffers; returns the optimizer's state by key."""
    places: dict[str, Tensor] = {f"parameter|{k}": p for k, p in distinct(members).items()}
    for member in members:
        places |= {f"buffer|{member.id}|{n}": b for n, b in member.network.named_buffers()}
    known = {name for name in tensors if name.startswith(("parameter|", "buffer|"))}
    if known != places.keys():
        raise BadCheckpoint(
            f"the checkpoint does not fit its own lineage: {sorted(known ^ places.keys())[:4]} are "
            f"on one side only"
        )
    for name, place in places.items():
        value = tensors[name]
        if value.shape != place.shape or value.dtype != place.dtype:
            raise BadCheckpoint(f"the checkpoint's '{name}' is not like the search's")
        place.copy_(value)
    states: dict[str, dict[str, Any]] = {key: dict(own) for key, own in numbers.items()}
    for name in tensors.keys() - places.keys() - {"correct"}:
        key, _, entry = name.partition("|")[2].rpartition("|")
        value, like = tensors[name], places[f"parameter|{key}"]
        # Step counts stay on the CPU, as optimizers keep them.
        states[key][entry] = value.to(like.device, copy=True) if value.dim() else value.clone()
    return states


def write(state: Mapping[str, Any], path: Path) -> None:
    """One file, which has its name only once it is whole. Raises BadCheckpoint."""
    tensors = {name: t.contiguous() for name, t in state["tensors"].items()}
    try:
        handle, draft = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
        os.close(handle)
        try:
            save_file(tensors, draft, metadata={_META: state["meta"]})
            with open(draft, "rb") as file:
                os.fsync(file.fileno())
            os.replace(draft, path)
        except BaseException:
            Path(draft).unlink(missing_ok=True)
            raise
    except (OSError, SafetensorError) as fault:
        raise BadCheckpoint(f"'{path}' cannot be written: {fault}") from fault


def read(path: Path) -> dict[str, Any]:
    """What `write` wrote. Raises BadCheckpoint."""
    if not path.is_file():
        raise BadCheckpoint(f"'{path}' is not a file")
    try:
        with safe_open(str(path), framework="pt") as file:
            meta = (file.metadata() or {}).get(_META)
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, ValueError) as fault:
        raise BadCheckpoint(f"'{path}' is not a whole safetensors file ({fault})") from None
    if meta is None:
        raise BadCheckpoint(f"'{path}' was not written by a search")
    return {"meta": meta, "tensors": tensors}
