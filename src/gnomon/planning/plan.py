"""Plans: what a morph will do to one model, as data. Nothing here touches a model."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch

from gnomon import rules
from gnomon.axes import Form
from gnomon.embedding import Embedding, embed
from gnomon.errors import BadCheckpoint
from gnomon.planning.edit import AttributeEdit, ModuleEdit, TensorEdit, WidthChange
from gnomon.planning.notation import (
    attribute_edit,
    embedding,
    embedding_data,
    module_data,
    module_edit,
    tensor_edit,
)
from gnomon.planning.spec import factories_needed
from gnomon.rules.base import Rule

Claim = Literal["exact", "expectation", "interior", "none"]

RULES: Mapping[str, type[Rule]] = {
    cls.__name__: cls
    for cls in (
        rules.R2R, rules.Net2Net, rules.NetMorph, rules.Hybrid, rules.Isometry, rules.RandPad
    )
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Plan:
    """The edits that a morph makes on one model.

    skipped: groups that were asked for through a prefix and cannot grow, with the reason.
    changed: existing weights that do not stay bit for bit as they are.
    parameters, flops: before and after; FLOPs of a forward pass of one example.
    modules: what is put into the model, in this order and before anything grows.
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
    modules: tuple[ModuleEdit, ...] = ()
    _composed: dict[Form, Embedding] = field(default_factory=dict, repr=False)

    @property
    def claim(self) -> Claim:
        """What is promised: the same function, in expectation, inside a frame, or nothing."""
        if not self.rule.preserves:
            return "none"
        if any(m.options.get("border") == "interior" for m in self.modules):
            return "interior"
        return "expectation" if any(m.expected for m in self.modules) else "exact"

    @property
    def preserves(self) -> bool:
        """Whether the function is kept exactly."""
        return self.claim == "exact"

    @property
    def factories(self) -> list[str]:
        """The modules for which `gn.load` needs `blocks=`, since a file cannot express them."""
        return list(dict.fromkeys(n for m in self.modules for n in factories_needed(m.spec)))

    @cached_property
    def turns(self) -> bool:
        """Whether channels are turned: then every old weight of theirs changes."""
        return any(e.turn is not None for e in self.embeddings.values())

    @cached_property
    def sizes(self) -> dict[str, int]:
        """The grown size of each group's leaf."""
        return {name: e.size for name, e in self.embeddings.items()}

    @cached_property
    def against(self) -> dict[str, float]:
        """The groups of which a product's one side is read against the other, with its factor."""
        found: dict[str, float] = {}
        for edit in self.edits:
            for d in edit.dims:
                found |= d.form.factors_against
        return found

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


_CLAIMS: Mapping[Claim, str] = {
    "exact": "keeps the function",
    "expectation": "keeps the function in eval mode, and in expectation in train mode",
    "interior": "keeps the function except in a frame, as asked for",
    "none": "DOES NOT PRESERVE the function",
}
_WAYS = {"insert": "inserted after", "hook": "run on the output of", "replace": "in the place of"}
_STARTS = {
    "zero": "starts at zero",
    "identity": "starts as the identity",
    "random": "random",
    "copied": "a copy whose branches start at zero",
}


def _kind(edit: ModuleEdit) -> str:
    name = str(edit.spec.get("class") or edit.spec["factory"]).rpartition(".")[2]
    return f"{name}, {_STARTS[edit.start]}" if edit.start in _STARTS else name


def _table(plan: Plan) -> str:
    lines = [f"plan: {plan.morph}, seed {plan.seed}: {_CLAIMS[plan.claim]}"]
    lines += [f"  {_WAYS[m.how]} '{m.place}': {_kind(m)}" for m in plan.modules]
    name_width = max((len(w.group) for w in plan.widths), default=0)
    for w in plan.widths:
        asked = f"   (asked {w.asked} -> {w.new})" if w.asked != w.new else ""
        lines.append(f"  {w.group:{name_width}}  {w.old:>6} -> {w.new}{asked}")
    before, after = plan.parameters
    tensors = f"{len(plan.edits)} tensors; " if plan.edits else ""
    lines.append(f"  {tensors}parameters {before:,} -> {after:,}")
    if plan.flops[0]:
        lines.append(f"  forward FLOPs per example {plan.flops[0]:,} -> {plan.flops[1]:,}")
    lines += [f"  skipped {name}: {reason}" for name, reason in plan.skipped]
    if plan.changed:
        shown = ", ".join(plan.changed[:4]) + (", ..." if len(plan.changed) > 4 else "")
        lines.append(f"  existing weights that change: {shown} ({len(plan.changed)})")
    lines += _rescaled(plan)
    return "\n".join(lines + [f"  note: {note}" for note in plan.notes])


def _rescaled(plan: Plan) -> list[str]:
    """What happens to old entries that are multiplied, and to the eps of norms."""
    changes: dict[str, list[str]] = {}
    for e in plan.edits:
        if e.rescales:
            shift = f" {e.shift:+.6g}" if e.shift else ""
            change = f"times {e.scale:.6g}{shift}" if e.scale else f"set to {e.shift:.6g}"
            changes.setdefault(change, []).append(e.name)
    for a in plan.attributes:
        if isinstance(a.new, float):
            name = f"{a.path}.{a.name}" if a.path else a.name
            changes.setdefault(f"{a.old:.6g} -> {a.new:.6g}", []).append(name)
    return [
        f"  {', '.join(names[:4])}{', ...' if len(names) > 4 else ''} ({len(names)}): {change}"
        for change, names in changes.items()
    ]


def _as_data(plan: Plan) -> dict[str, Any]:
    plain = {
        f.name: getattr(plan, f.name)
        for f in dataclasses.fields(plan)
        if f.name in ("morph", "seed", "fingerprint", "skipped", "changed", "notes")
        or f.name in ("parameters", "flops")
    }
    return plain | {
        "rule": {"name": type(plan.rule).__name__, **dataclasses.asdict(plan.rule)},
        "embeddings": {name: embedding_data(e) for name, e in plan.embeddings.items()},
        "edits": [dataclasses.asdict(edit) for edit in plan.edits],
        "attributes": [dataclasses.asdict(edit) for edit in plan.attributes],
        "widths": [dataclasses.asdict(width) for width in plan.widths],
        "modules": [module_data(edit) for edit in plan.modules],
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
        embeddings={str(n): embedding(e) for n, e in data["embeddings"].items()},
        edits=tuple(tensor_edit(e) for e in data["edits"]),
        attributes=tuple(attribute_edit(e) for e in data["attributes"]),
        widths=tuple(WidthChange(**w) for w in data["widths"]),
        skipped=tuple(pairs),
        changed=tuple(map(str, data["changed"])),
        notes=tuple(map(str, data["notes"])),
        parameters=(int(data["parameters"][0]), int(data["parameters"][1])),
        flops=(int(data["flops"][0]), int(data["flops"][1])),
        modules=tuple(module_edit(e) for e in data["modules"]),
    )
