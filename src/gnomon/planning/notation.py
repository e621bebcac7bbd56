"""Edits and embeddings as JSON, and back."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args

import torch

from gnomon.axes import Form
from gnomon.embedding import Embedding
from gnomon.ops.context import Fill, Role
from gnomon.planning.edit import (
    AttributeEdit,
    AttributeValue,
    Behind,
    DimEdit,
    How,
    ModuleEdit,
    Start,
    TensorEdit,
)
from gnomon.planning.spec import Spec


def embedding_data(e: Embedding) -> dict[str, Any]:
    """An embedding, without factors that are all 1."""
    data: dict[str, Any] = {"old": e.old, "fresh": e.fresh, "source": e.source.tolist()}
    if not bool((e.factor == 1).all()):
        data["factor"] = e.factor.tolist()
    if e.near is not None:
        data["near"] = e.near.tolist()
    if e.turn is not None:
        data["turn"] = e.turn
    return data


def embedding(data: dict[str, Any]) -> Embedding:
    """The embedding that `embedding_data` wrote."""
    source = torch.tensor(data["source"], dtype=torch.int64)
    factor = torch.tensor(data.get("factor", [1.0] * source.numel()), dtype=torch.float64)
    near = torch.tensor(data["near"], dtype=torch.int64) if "near" in data else None
    turn = int(data["turn"]) if "turn" in data else None
    return Embedding(source, factor, int(data["old"]), int(data["fresh"]), near, turn)


def tensor_edit(data: dict[str, Any]) -> TensorEdit:
    """The edit whose fields these are; raises ValueError if they contradict each other."""
    if data["fill"] not in get_args(Fill):
        raise ValueError(f"unknown fill {data['fill']!r}")
    dims = tuple(_dim_edit(d) for d in data["dims"])
    shape = tuple(int(n) for n in data["shape"])
    if any(not 0 <= d.dim < len(shape) or d.form.size != shape[d.dim] for d in dims):
        raise ValueError(f"an edit of {data['name']!r} that does not fit its shape")
    std = None if data["std"] is None else float(data["std"])
    scale, shift = float(data.get("scale", 1.0)), float(data.get("shift", 0.0))
    return TensorEdit(str(data["name"]), dims, shape, std, data["fill"], scale, shift)


def _dim_edit(data: dict[str, Any]) -> DimEdit:
    behind = tuple(
        Behind(
            str(b["group"]), str(b["gain"]), float(b["slope"]), float(b["offset"]), bool(b["whole"])
        )
        for b in data.get("behind", ())
    )
    return DimEdit(int(data["dim"]), _role(data["role"]), _form(data["form"]), behind)


def _role(text: str) -> Role:
    if text not in ("write", "follow", "read"):
        raise ValueError(f"unknown role {text!r}")
    return text  # type: ignore[return-value]


def _form(data: dict[str, Any]) -> Form:
    if data["kind"] not in ("leaf", "product", "sum"):
        raise ValueError(f"unknown axis kind {data['kind']!r}")
    parts = tuple(_form(part) for part in data["parts"])
    against = float(data.get("against", 0.0))
    return Form(data["kind"], int(data["size"]), str(data["name"]), parts, against)


def attribute_edit(data: dict[str, Any]) -> AttributeEdit:
    """The edit whose fields these are."""
    old = None if data["old"] is None else _held(data["old"])
    new = _held(data["new"])
    return AttributeEdit(str(data["path"]), str(data["name"]), old, new)


def _held(value: Any) -> AttributeValue:
    if isinstance(value, list):
        return tuple(map(int, value))
    return value if isinstance(value, str | float) else int(value)


def module_data(edit: ModuleEdit) -> dict[str, Any]:
    """A module edit without its template, which no JSON can hold."""
    kept = (f.name for f in dataclasses.fields(edit) if f.name != "template")
    return {name: getattr(edit, name) for name in kept}


def module_edit(data: dict[str, Any]) -> ModuleEdit:
    """The edit that `module_data` wrote."""
    if data["how"] not in get_args(How):
        raise ValueError(f"unknown way {data['how']!r} to put a module")
    if data["start"] not in get_args(Start):
        raise ValueError(f"unknown start {data['start']!r} of a module")
    spec: Spec = dict(data["spec"])
    return ModuleEdit(
        data["how"], str(data["place"]), spec, data["start"],
        shape=tuple(map(int, data["shape"])),
        std=None if data["std"] is None else float(data["std"]),
        twins=int(data["twins"]),
        expected=bool(data["expected"]),
        options=dict(data["options"]),
    )  # fmt: skip
