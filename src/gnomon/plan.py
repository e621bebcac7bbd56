"""Plans: what a morph will do to one model, as data. Nothing here touches a model."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from gnomon import rules
from gnomon.axes import Form
from gnomon.embedding import Embedding, embed
from gnomon.errors import BadCheckpoint
from gnomon.ops.context import Fill, Role
from gnomon.rules.base import Rule

RULES: Mapping[str, type[Rule]] = {
    cls.__name__: cls
    for cls in (rules.R2R, rules.Net2Net, rules.NetMorph, rules.Hybrid, rules.RandPad)
}


@dataclass(frozen=True)
class DimEdit:
    """One dimension of a tensor that grows: by its role and by what its axis is made of."""

    dim: int
    role: Role
    form: Form


@dataclass(frozen=True)
class TensorEdit:
    """A parameter or buffer that grows.

    std:  standard deviation of new weights, so that every copy of the model draws the same ones;
          None in a plan made on `meta`, which has no weights: then measured when it is applied.
    fill: how entries of fresh signals are made: drawn, the mean of the old, measured statistics.
    """

    name: str
    dims: tuple[DimEdit, ...]
    shape: tuple[int, ...]
    std: float | None
    fill: Fill


@dataclass(frozen=True)
class AttributeEdit:
    """An integer, or a tuple of them, that a module keeps about its width."""

    path: str
    name: str
    old: int | tuple[int, ...]
    new: int | tuple[int, ...]


@dataclass(frozen=True)
class WidthChange:
    """A group's channels before and after, and what was asked before rounding up to its step."""

    group: str
    old: int
    asked: int
    new: int


@dataclass(frozen=True, eq=False)
class Plan:
    """The edits that a morph makes on one model.

    skipped: groups that were asked for through a prefix and cannot grow, with the reason.
    changed: existing weights that do not stay bit for bit as they are.
    parameters, flops: before and after; FLOPs of a forward pass of one example.
    """

    morph: str
    rule: Rule
    seed: int
    fingerprint: str
    embeddings: Mapping[str, Embedding]
    edits: tuple[TensorEdit, ...]
    attributes: tuple[AttributeEdit, ...]
    widths: tuple[WidthChange, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    changed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    parameters: tuple[int, int] = (0, 0)
    flops: tuple[int, int] = (0, 0)
    _composed: dict[Form, Embedding] = field(default_factory=dict, repr=False)

    @property
    def preserves(self) -> bool:
        """Whether the rule keeps the function."""
        return self.rule.preserves

    @cached_property
    def sizes(self) -> dict[str, int]:
        """The grown size of each group's leaf."""
        return {name: e.size for name, e in self.embeddings.items()}

    def embedding(self, form: Form) -> Embedding:
        """The embedding of a whole dimension, composed once."""
        if form not in self._composed:
            self._composed[form] = embed(form, self.embeddings)
        return self._composed[form]

    def grown_shape(self, edit: TensorEdit) -> tuple[int, ...]:
        """The shape of a tensor after the edit."""
        shape = list(edit.shape)
        for d in edit.dims:
            shape[d.dim] = d.form.grown(self.sizes)
        return tuple(shape)

    def __str__(self) -> str:
        return _table(self)

    def to_json(self) -> str:
        """The plan as JSON: enough to apply it to another copy of the model."""
        return json.dumps(_as_data(self), separators=(",", ":"))

    @staticmethod
    def from_json(text: str, rules: Sequence[type[Rule]] = ()) -> Plan:
        """The plan that `to_json` wrote; `rules` adds rule classes of your own.

        Raises BadCheckpoint if the text is not such a plan.
        """
        try:
            with torch.device("cpu"):
                return _from_data(json.loads(text), {**RULES, **{r.__name__: r for r in rules}})
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as fault:
            raise BadCheckpoint(f"not a plan of gnomon ({type(fault).__name__}: {fault})") from None


def _table(plan: Plan) -> str:
    kind = "keeps the function" if plan.preserves else "DOES NOT PRESERVE the function"
    lines = [f"plan: {plan.morph}, seed {plan.seed}: {kind}"]
    name_width = max((len(w.group) for w in plan.widths), default=0)
    for w in plan.widths:
        asked = f"   (asked {w.asked} -> {w.new})" if w.asked != w.new else ""
        lines.append(f"  {w.group:{name_width}}  {w.old:>6} -> {w.new}{asked}")
    before, after = plan.parameters
    lines.append(f"  {len(plan.edits)} tensors; parameters {before:,} -> {after:,}")
    if plan.flops[0]:
        lines.append(f"  forward FLOPs per example {plan.flops[0]:,} -> {plan.flops[1]:,}")
    lines += [f"  skipped {name}: {reason}" for name, reason in plan.skipped]
    if plan.changed:
        shown = ", ".join(plan.changed[:4]) + (", ..." if len(plan.changed) > 4 else "")
        lines.append(f"  existing weights that change: {shown} ({len(plan.changed)})")
    return "\n".join(lines + [f"  note: {note}" for note in plan.notes])


def _as_data(plan: Plan) -> dict[str, Any]:
    embeddings = {}
    for name, e in plan.embeddings.items():
        embeddings[name] = {"old": e.old, "fresh": e.fresh, "source": e.source.tolist()}
        if not bool((e.factor == 1).all()):
            embeddings[name]["factor"] = e.factor.tolist()
        if e.near is not None:
            embeddings[name]["near"] = e.near.tolist()
    plain = {
        f.name: getattr(plan, f.name)
        for f in dataclasses.fields(plan)
        if f.name in ("morph", "seed", "fingerprint", "skipped", "changed", "notes")
        or f.name in ("parameters", "flops")
    }
    return plain | {
        "rule": {"name": type(plan.rule).__name__, **dataclasses.asdict(plan.rule)},
        "embeddings": embeddings,
        "edits": [dataclasses.asdict(edit) for edit in plan.edits],
        "attributes": [dataclasses.asdict(edit) for edit in plan.attributes],
        "widths": [dataclasses.asdict(width) for width in plan.widths],
    }


def _from_data(data: dict[str, Any], known: Mapping[str, type[Rule]]) -> Plan:
    options = dict(data["rule"])
    name = options.pop("name")
    if name not in known:
        raise BadCheckpoint(f"unknown rule {name!r}; pass its class as rules=[{name}]")
    pairs = [(str(a), str(b)) for a, b in data["skipped"]]
    return Plan(
        morph=str(data["morph"]),
        rule=known[name](**options),
        seed=int(data["seed"]),
        fingerprint=str(data["fingerprint"]),
        embeddings={str(n): _embedding(e) for n, e in data["embeddings"].items()},
        edits=tuple(_tensor_edit(e) for e in data["edits"]),
        attributes=tuple(_attribute_edit(e) for e in data["attributes"]),
        widths=tuple(WidthChange(**w) for w in data["widths"]),
        skipped=tuple(pairs),
        changed=tuple(map(str, data["changed"])),
        notes=tuple(map(str, data["notes"])),
        parameters=(int(data["parameters"][0]), int(data["parameters"][1])),
        flops=(int(data["flops"][0]), int(data["flops"][1])),
    )


def _embedding(data: dict[str, Any]) -> Embedding:
    source = torch.tensor(data["source"], dtype=torch.int64)
    factor = torch.tensor(data.get("factor", [1.0] * source.numel()), dtype=torch.float64)
    near = torch.tensor(data["near"], dtype=torch.int64) if "near" in data else None
    return Embedding(source, factor, int(data["old"]), int(data["fresh"]), near)


def _tensor_edit(data: dict[str, Any]) -> TensorEdit:
    if data["fill"] not in ("draw", "mean", "statistic"):
        raise ValueError(f"unknown fill {data['fill']!r}")
    dims = tuple(DimEdit(int(d["dim"]), _role(d["role"]), _form(d["form"])) for d in data["dims"])
    shape = tuple(int(n) for n in data["shape"])
    if any(not 0 <= d.dim < len(shape) or d.form.size != shape[d.dim] for d in dims):
        raise ValueError(f"an edit of {data['name']!r} that does not fit its shape")
    std = None if data["std"] is None else float(data["std"])
    return TensorEdit(str(data["name"]), dims, shape, std, data["fill"])


def _role(text: str) -> Role:
    if text not in ("write", "follow", "read"):
        raise ValueError(f"unknown role {text!r}")
    return text  # type: ignore[return-value]


def _form(data: dict[str, Any]) -> Form:
    if data["kind"] not in ("leaf", "product", "sum"):
        raise ValueError(f"unknown axis kind {data['kind']!r}")
    parts = tuple(_form(part) for part in data["parts"])
    return Form(data["kind"], int(data["size"]), str(data["name"]), parts)


def _attribute_edit(data: dict[str, Any]) -> AttributeEdit:
    old, new = (
        tuple(map(int, v)) if isinstance(v, list) else int(v) for v in (data["old"], data["new"])
    )
    return AttributeEdit(str(data["path"]), str(data["name"]), old, new)
