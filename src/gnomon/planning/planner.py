"""From embeddings of groups to edits of tensors and attributes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from gnomon.analysis.flops import grown_flops
from gnomon.analysis.groups import Analysis, Group, fill_of
from gnomon.axes import Axis, Form, Misfit, form
from gnomon.embedding import Embedding
from gnomon.errors import Unsupported
from gnomon.ops.context import Role
from gnomon.planning.attributes import grown_attributes
from gnomon.planning.edit import DimEdit, TensorEdit, WidthChange
from gnomon.planning.fill import GROWING
from gnomon.planning.pieces import marked
from gnomon.planning.plan import Plan
from gnomon.planning.silence import Rescaled, Silence, louder, rescaled
from gnomon.planning.spreads import spread_of_new
from gnomon.planning.turning import Turning, turned_dims
from gnomon.recording.tape import owned_tensors
from gnomon.rules import Rule


@dataclass
class Planner:
    """Turns the embeddings of leaves into edits of tensors and attributes."""

    model: nn.Module
    analysis: Analysis
    embeddings: dict[str, Embedding]
    rule: Rule
    hollow: bool = False  # only shapes matter: weights are not looked at
    scales: Mapping[str, float] = field(default_factory=dict)  # of what is read against a product
    silences: Mapping[str, Silence] = field(default_factory=dict)
    gains: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # of norms: scale, shift
    turnings: Mapping[str, Turning] = field(default_factory=dict)

    def plan(
        self,
        morph: str,
        seed: int,
        fingerprint: str,
        widths: tuple[WidthChange, ...],
        skipped: tuple[tuple[str, str], ...],
    ) -> Plan:
        """The plan; raises Unsupported for weights that cannot grow (NaN, no dense floats)."""
        draft = self.draft()
        before = sum(p.numel() for p in self.model.parameters())
        added = sum(
            math.prod(draft.grown_shape(e)) - math.prod(e.shape)
            for e in draft.edits
            if isinstance(self._owned[e.name], nn.Parameter)
        )
        attributes = grown_attributes(self.model, self.analysis, draft)
        return Plan(
            morph, self.rule, seed, fingerprint, draft.embeddings, draft.edits,
            attributes=(*attributes, *self._rescaled.attributes),
            widths=widths,
            skipped=skipped,
            changed=tuple(e.name for e in draft.edits if _changes_old(draft, e)),
            notes=self._notes(),
            parameters=(before, before + added),
            flops=(0, 0) if self.hollow else grown_flops(self.analysis, self._sizes()),
        )  # fmt: skip

    def draft(self) -> Plan:
        """The edits of tensors alone. Raises Unsupported as `plan`."""
        owned = self._owned.items()
        edits = tuple(e for name, x in owned if (e := self._edit(name, x)) is not None)
        return Plan("", self.rule, 0, "", self._variants | self.embeddings, edits, (), ())

    def width(self, group: Group) -> int:
        """The channels where the first writer makes them, once all groups have grown."""
        sizes = {name: e.size for name, e in self.embeddings.items()}
        for wanted in ("write", "follow", "read"):
            for slot in (s for s in group.slots if s.role == wanted):
                names = {**self._names, group.leaf: group.name}
                whole = form(self.analysis.context.dims[slot.name][slot.dim], names)
                return _first_segments(whole, group.name).grown(sizes)
        raise AssertionError(f"'{group.name}' has no slots")

    @cached_property
    def _owned(self) -> dict[str, Tensor]:
        return owned_tensors(self.model)

    @cached_property
    def _names(self) -> dict[Axis, str]:
        """The growing leaves and their groups' names."""
        return {g.leaf: g.name for g in self.analysis.groups if g.name in self.embeddings}

    @cached_property
    def _variants(self) -> dict[str, Embedding]:
        """Where silent channels must not be read, they are fresh signals."""
        return {_unread(name): louder(self.embeddings[name]) for name in self.silences}

    def _names_at(self, name: str, dim: int) -> dict[Axis, str]:
        """The growing leaves, by what the readers in this dimension may see of them."""
        loud = {group for group, s in self.silences.items() if (name, dim) in s.loud}
        if not loud:
            return self._names
        return {leaf: _unread(g) if g in loud else g for leaf, g in self._names.items()}

    @cached_property
    def _rescaled(self) -> Rescaled:
        """What the norms over silent channels need."""
        quiet = {leaf for leaf, name in self._names.items() if name in self.silences}
        sizes = {name: e.size for name, e in self.embeddings.items()}
        return rescaled(self.analysis, quiet, lambda axis: form(axis, self._names).grown(sizes))

    def _sizes(self) -> dict[Axis, int]:
        return {leaf: self.embeddings[name].size for leaf, name in self._names.items()}

    def _edit(self, name: str, tensor: Tensor) -> TensorEdit | None:
        dims, axes = [], self.analysis.context.dims[name]
        fills = [s.fills[name] for s in self.silences.values() if name in s.fills]
        for dim, axis in enumerate(axes):
            whole = self._marked(name, dim, form(axis, self._names))
            if whole.names():
                role = self._role(name, dim, whole)
                role = "write" if role == "read" and self._is_tied(name, dim, whole) else role
                dims.append(DimEdit(dim, role, whole))
        if not dims or name not in self.analysis.context.used:
            return None
        _refuse_other_dtypes(name, tensor)
        std = self._std(name, tensor, dims)
        seen = {d.dim: form(axes[d.dim], self._names_at(name, d.dim)) for d in dims}
        dims = [replace(d, form=self._marked(name, d.dim, seen[d.dim])) for d in dims]
        fill = fill_of(self.analysis.context, name, [d.role for d in dims], tensor)
        fill = fills[0] if fills else fill
        scale, shift = {**self._rescaled.gains, **self.gains}.get(name, (1.0, 0.0))
        edit = TensorEdit(name, tuple(dims), tuple(tensor.shape), std, fill, scale, shift)
        return replace(edit, dims=turned_dims(edit, self.turnings)) if self.turnings else edit

    @cached_property
    def _roles(self) -> dict[tuple[str, int, str], Role]:
        """The role of each growing group in each dimension: (tensor, dimension, group)."""
        growing = (g for g in self.analysis.groups if g.name in self.embeddings)
        return {(s.name, s.dim, g.name): s.role for g in growing for s in g.slots}

    def _marked(self, name: str, dim: int, whole: Form) -> Form:
        """With the channels told apart that are read against the other side of a product."""
        for leaf, group in self._names.items():
            link = self.analysis.links.get(leaf)
            if link is None or (name, dim) not in link.read:
                continue
            try:
                whole = marked(whole, group, link.read[name, dim], self.scales.get(group, 1.0))
            except Misfit as misfit:
                raise Unsupported(
                    f"'{name}' cannot grow: {misfit}. Grow one after the other"
                ) from None
        return whole

    def _is_tied(self, name: str, dim: int, whole: Form) -> bool:
        """Whether channels are both written and read here: then what writes them does both."""
        handle = self.analysis.context.dims[name][dim]
        return (name, handle) in self._written and whole.names() <= self._tied

    @cached_property
    def _written(self) -> set[tuple[str, Axis]]:
        """The dimensions by which a tensor writes, as the tape names them."""
        return {(u.name, u.axis) for u in self.analysis.context.uses if u.role == "write"}

    @cached_property
    def _tied(self) -> set[str]:
        return {g.name for g in self.analysis.groups if g.verdict == "tied"}

    def _role(self, name: str, dim: int, whole: Form) -> Role:
        growing = whole.names()
        if whole.is_against:  # that of the other channels; each piece tells its own
            growing = {g for g in growing if not self._is_linked(g)} or growing
        roles = {self._roles.get((name, dim, group)) for group in growing}
        if whole.is_against:
            roles -= {"read"}
            return "follow" if roles == {"follow"} else "write"
        return "read" if "read" in roles else "write" if "write" in roles else "follow"

    def _is_linked(self, group: str) -> bool:
        linked = (leaf for leaf, name in self._names.items() if name == group)
        return any(leaf in self.analysis.links for leaf in linked)

    def _std(self, name: str, tensor: Tensor, dims: list[DimEdit]) -> float | None:
        if self.hollow:
            return 1.0
        if not isinstance(tensor, nn.Parameter) and self._read_elsewhere(dims):
            return 0.0  # a fixed reader: new columns of zeros are as good as any, and honest
        sizes = {group: e.size for group, e in self.embeddings.items()}
        shape = list(tensor.shape)
        for d in dims:
            shape[d.dim] = d.form.grown(sizes)
        return spread_of_new(name, tensor, shape, self.rule)

    def _read_elsewhere(self, dims: list[DimEdit]) -> bool:
        """Whether every group in these dimensions has a parameter that reads it and can learn."""
        return all(d.form.names() <= self._read_to_learn for d in dims)

    @cached_property
    def _read_to_learn(self) -> set[str]:
        """The groups that a parameter reads."""
        learns = {name for name, _ in self.model.named_parameters(remove_duplicate=False)}
        return {g for (n, _, g), role in self._roles.items() if role == "read" and n in learns}

    def _notes(self) -> tuple[str, ...]:
        notes = []
        if self.analysis.random:
            drawn = ", ".join(self.analysis.random)
            notes.append(f"random operations are set to their mean for the proof: {drawn}")
        if self.analysis.unreached:
            some = ", ".join(self.analysis.unreached[:3])
            notes.append(f"{len(self.analysis.unreached)} parameters are never reached: {some}")
        return tuple(notes)


def _unread(group: str) -> str:
    """The name of a group's channels for readers that must not see the silent ones."""
    return f"{group}, unread"


def _first_segments(whole: Form, name: str) -> Form:
    """Of every sum the first segment that holds a group: where its width is counted."""
    if whole.kind == "sum":
        return _first_segments(next(p for p in whole.parts if name in p.names()), name)
    if whole.kind == "leaf":
        return whole
    parts = (_first_segments(p, name) if name in p.names() else p for p in whole.parts)
    return replace(whole, parts=tuple(parts))


def _refuse_other_dtypes(name: str, tensor: Tensor) -> None:
    if tensor.dtype not in GROWING or tensor.layout != torch.strided:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise Unsupported(f"'{name}' is {kind}, {tensor.layout}: only dense floats grow")


def _changes_old(plan: Plan, edit: TensorEdit) -> bool:
    """Whether an existing weight gets another value or another place among the old ones."""
    if edit.rescales or plan.turns:
        return True
    for d in edit.dims:
        e = plan.embedding(d.form)
        if d.form.is_against and any(
            factor != 1 or plan.embeddings[name].restricted[0].numel()
            for name, factor in d.form.factors_against.items()
        ):
            return True
        if d.role == "read" and e.restricted[0].numel():
            return True
        if not e.keeps_order:
            return True
    return False
