"""Widen: more channels for groups, each with everything that is coupled to them."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import SupportsFloat, SupportsIndex, cast

import torch
from torch import Tensor, nn

from gnomon.axes import Axis, factors, form, leaves, resolve, segments
from gnomon.draw import Draw
from gnomon.embedding import Embedding
from gnomon.errors import CannotPreserve, GrowthError, NoSuchGroup, Unsupported
from gnomon.flops import grown_flops
from gnomon.groups import Analysis, Group, fill_of
from gnomon.layers import sizes_of
from gnomon.ops.context import Role
from gnomon.plan import AttributeEdit, DimEdit, Plan, TensorEdit, WidthChange
from gnomon.rules import R2R, Rule
from gnomon.tape import owned_tensors

MOST_CHANNELS = 1 << 24  # beyond this a request is a slip of the keyboard


@dataclass(frozen=True)
class Widen:
    """More channels for the groups that `where` names.

    where: a group's name, a module path, a prefix or a glob, or a list of these. A prefix takes
           the groups whose writers all lie under it; what cannot grow there is skipped and listed.
    by, to, add: exactly one; new widths round up to the group's step.

    Raises ValueError if the request makes no sense for any model.
    """

    where: str | Sequence[str]
    by: float | None = None
    to: int | None = None
    add: int | None = None
    rule: Rule = field(default_factory=R2R)

    def __post_init__(self) -> None:
        given = {"by": self.by, "to": self.to, "add": self.add}
        chosen = {name: value for name, value in given.items() if value is not None}
        if len(chosen) != 1:
            raise ValueError(f"give exactly one of by=, to=, add= (got {chosen or 'none'})")
        if self.by is not None:
            object.__setattr__(self, "by", _factor(self.by))
        for name in ("to", "add"):
            if given[name] is not None:
                object.__setattr__(self, name, _count(name, given[name]))
        if not isinstance(self.rule, Rule):
            raise ValueError(f"rule must be a rule such as R2R(), not {self.rule!r}")
        named = isinstance(self.where, str | Sequence) and len(self.patterns) > 0
        if not named or not all(isinstance(p, str) for p in self.patterns):
            raise ValueError(
                f"where must name groups, paths, prefixes or globs, not {self.where!r}"
            )

    @property
    def patterns(self) -> tuple[str, ...]:
        """`where` as a tuple."""
        return (self.where,) if isinstance(self.where, str) else tuple(self.where)

    def asked(self, width: int) -> int:
        """The width asked for, before rounding up to a step."""
        if self.add is not None:
            return width + self.add
        if self.to is not None:
            return self.to
        return math.ceil(width * (self.by or 1) - 1e-9)

    def __str__(self) -> str:
        amount = next(
            f"{n}={v}" for n in ("by", "to", "add") if (v := getattr(self, n)) is not None
        )
        where = self.where if isinstance(self.where, str) else f"{len(self.patterns)} names"
        return f"Widen({where!r}, {amount}, rule={self.rule!r})"

    def plan(self, model: nn.Module, analysis: Analysis, fingerprint: str, seed: int) -> Plan:
        """The edits on this model. Raises GrowthError where something named exactly cannot grow."""
        chosen, skipped = select(self.patterns, analysis.groups, analysis)
        embeddings: dict[str, Embedding] = {}
        widths: list[WidthChange] = []
        for group, exact in chosen:
            if group.verdict in ("refused", "tied"):
                if exact:
                    raise Unsupported(f"'{group.name}' cannot grow: {group.reason}")
                skipped.append((group.name, group.reason))
                continue
            try:
                embeddings[group.name], change = self._embed(
                    group, {g.name for g, _ in chosen}, seed
                )
                widths.append(change)
            except GrowthError as refusal:
                if exact:
                    raise
                skipped.append((group.name, str(refusal)))
        if not embeddings:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped[:8])
            raise Unsupported(f"nothing under {list(self.patterns)} can grow by {self}. {reasons}")
        return _Planner(model, analysis, embeddings, self.rule).plan(
            str(self), seed, fingerprint, tuple(widths), tuple(skipped)
        )

    def _embed(self, group: Group, selected: set[str], seed: int) -> tuple[Embedding, WidthChange]:
        missing = sorted(group.joint - selected)
        if missing and any(law.kind == "uniform" for law in group.laws):
            raise CannotPreserve(
                f"'{group.name}' is averaged together with {missing}: name them too, with Net2Net()"
            )
        asked = self.asked(group.width)
        if asked > MOST_CHANNELS:
            raise Unsupported(
                f"'{group.name}' cannot have {asked} channels (at most {MOST_CHANNELS})"
            )
        k = -(-(asked - group.width) // group.step)
        if k < 1:
            raise Unsupported(f"'{group.name}' is {group.width} wide already; asked {asked}")
        n = group.width // group.step
        try:
            draw = Draw(seed, group.name, -1)
            e = self.rule.embed(n, k, group.laws, draw)
        except CannotPreserve as refusal:
            raise CannotPreserve(f"'{group.name}' cannot grow by {self}: {refusal}") from None
        return e, WidthChange(group.name, group.width, asked, (n + k) * group.step)


def _factor(value: object) -> float:
    if isinstance(value, bool | complex | str) or not isinstance(value, SupportsFloat):
        raise ValueError(f"by must be a number above 1, not {value!r}")
    factor = float(value)
    if not (math.isfinite(factor) and factor > 1):
        raise ValueError(f"by must be a finite factor above 1, not {value!r}")
    return factor


def _count(name: str, value: object) -> int:
    whole = isinstance(value, SupportsIndex) and not isinstance(value, bool)
    if not whole or operator.index(cast(SupportsIndex, value)) < 1:
        raise ValueError(f"{name} must be a whole number of channels above 0, not {value!r}")
    return operator.index(cast(SupportsIndex, value))


def select(
    patterns: Sequence[str], groups: Sequence[Group], analysis: Analysis
) -> tuple[list[tuple[Group, bool]], list[tuple[str, str]]]:
    """The groups that patterns name, each with whether it was named exactly; and what is skipped.

    Raises NoSuchGroup for a pattern that matches nothing.
    """
    by_name = {group.name: group for group in groups}
    exact = [by_name[p] for p in patterns if p in by_name]
    under: dict[str, Group] = {}
    skipped: list[tuple[str, str]] = []
    for pattern in (p for p in patterns if p not in by_name):
        inside = [g for g in groups if any(_lies_under(m, pattern) for m in _places(g))]
        if not inside:
            raise NoSuchGroup(_no_such(pattern, groups))
        for group in inside:
            if all(_lies_under(m, pattern) for m in _places(group)):
                under[group.name] = group
            else:
                elsewhere = next(m for m in _places(group) if not _lies_under(m, pattern))
                skipped.append((group.name, f"left out, name it: also written by '{elsewhere}'"))
    named = {g.name for g in exact}
    candidates = [g for g in under.values() if g.name not in named]
    taken, outer = _innermost(candidates, analysis)
    skipped += [(g.name, "left out, name it: another factor of the same channels") for g in outer]
    skipped = [s for s in dict(skipped).items() if s[0] not in named]
    return [(g, True) for g in dict.fromkeys(exact)] + [(g, False) for g in taken], skipped


def _places(group: Group) -> list[str]:
    """The modules that write a group; one that nothing writes lies where it is read."""
    return group.modules or [slot.name.rpartition(".")[0] for slot in group.slots]


def _lies_under(path: str, pattern: str) -> bool:
    if pattern in ("", "*"):
        return True
    return path == pattern or fnmatchcase(path, pattern) or fnmatchcase(path, pattern + ".*")


def _no_such(pattern: str, groups: Sequence[Group]) -> str:
    growable = [g.name for g in groups if g.verdict == "growable"]
    shown = ", ".join(growable[:12]) + (", ..." if len(growable) > 12 else "")
    return f"no group, module path or glob matches '{pattern}'. Growable are: {shown or 'none'}"


def _innermost(candidates: Sequence[Group], analysis: Analysis) -> tuple[list[Group], list[Group]]:
    """Of groups that multiply each other, the inner ones: convolution groups keep their number."""
    growing = {g.leaf: g for g in candidates if g.verdict == "growable"}
    outer: set[Axis] = set()
    for axes in analysis.context.dims.values():
        for axis in axes:
            _mark_outer(axis, growing, outer)
    taken = [g for g in candidates if g.leaf not in outer]
    return taken, [g for g in candidates if g.leaf in outer]


def _mark_outer(axis: Axis, growing: Mapping[Axis, Group], outer: set[Axis]) -> None:
    axis = resolve(axis)
    if axis.kind == "sum":
        for part in segments(axis):
            _mark_outer(part, growing, outer)
    if axis.kind == "product":
        inner = False
        for part in reversed(factors(axis)):
            found = [leaf for leaf in leaves(part) if leaf in growing]
            if inner:
                outer.update(found)
            inner = inner or bool(found)
            _mark_outer(part, growing, outer)


@dataclass
class _Planner:
    """Turns the embeddings of leaves into edits of tensors and attributes."""

    model: nn.Module
    analysis: Analysis
    embeddings: dict[str, Embedding]
    rule: Rule

    def plan(
        self,
        morph: str,
        seed: int,
        fingerprint: str,
        widths: tuple[WidthChange, ...],
        skipped: tuple[tuple[str, str], ...],
    ) -> Plan:
        owned = owned_tensors(self.model)
        edits = tuple(e for name, x in owned.items() if (e := self._edit(name, x)) is not None)
        plan = Plan(
            morph, self.rule, seed, fingerprint, self.embeddings, edits, (), widths, skipped
        )
        shapes = {edit.name: plan.grown_shape(edit) for edit in edits}
        before = sum(p.numel() for p in self.model.parameters())
        added = sum(
            math.prod(shapes[e.name]) - math.prod(e.shape)
            for e in edits
            if isinstance(owned[e.name], nn.Parameter)
        )
        return Plan(
            morph, self.rule, seed, fingerprint, self.embeddings, edits,
            attributes=tuple(self._attributes(shapes, plan)),
            widths=widths,
            skipped=skipped,
            changed=tuple(e.name for e in edits if _changes_old(plan, e)),
            notes=self._notes(),
            parameters=(before, before + added),
            flops=grown_flops(self.analysis, self._sizes()),
        )  # fmt: skip

    def _sizes(self) -> dict[Axis, int]:
        by_name = {g.name: g.leaf for g in self.analysis.groups}
        return {by_name[name]: e.size for name, e in self.embeddings.items()}

    def _edit(self, name: str, tensor: Tensor) -> TensorEdit | None:
        groups = [g for g in self.analysis.groups if g.name in self.embeddings]
        names = {g.leaf: g.name for g in groups}
        dims = []
        for dim, axis in enumerate(self.analysis.context.dims[name]):
            whole = form(axis, names)
            if whole.names():
                dims.append(DimEdit(dim, self._role(name, dim, whole.names()), whole))
        if not dims or name not in self.analysis.context.used:
            return None
        fill = fill_of(self.analysis.context, name, [d.role for d in dims], tensor)
        return TensorEdit(
            name, tuple(dims), tuple(tensor.shape), self._std(name, tensor, dims), fill
        )

    def _role(self, name: str, dim: int, growing: set[str]) -> Role:
        roles = {
            slot.role
            for group in self.analysis.groups
            if group.name in growing
            for slot in group.slots
            if slot.name == name and slot.dim == dim
        }
        return "read" if "read" in roles else "write" if "write" in roles else "follow"

    def _std(self, name: str, tensor: Tensor, dims: list[DimEdit]) -> float:
        """The spread of new weights; of a tensor of equal entries, He's."""
        if tensor.is_meta:
            return 1.0
        matched = _spread(tensor)
        if not math.isfinite(matched):
            raise Unsupported(
                f"'{name}' holds NaN or infinite weights: nothing can be proved of it"
            )
        if tensor.dim() < 2 or (self.rule.init == "matched" and matched > 0):
            return matched
        fan_in = tensor.numel() // tensor.shape[0]
        return math.sqrt(2 / fan_in)

    def _attributes(self, shapes: Mapping[str, tuple[int, ...]], plan: Plan) -> list[AttributeEdit]:
        groups = self._operation_attributes(plan)
        edits = {(path, name): edit for (path, name), edit in groups.items()}
        for path, module in self.model.named_modules():
            own = _own_shapes(path, module, shapes)
            if own is None:
                continue
            changed = groups.get((path, "groups"))
            conv_groups = changed.new if changed else module.__dict__.get("groups", 1)
            assert isinstance(conv_groups, int)
            for name, new in sizes_of(module, own, conv_groups).items():
                old = module.__dict__.get(name)
                if isinstance(old, int | tuple) and old != new:
                    edits[path, name] = AttributeEdit(path, name, old, new)
        return list(edits.values())

    def _operation_attributes(self, plan: Plan) -> dict[tuple[str, str], AttributeEdit]:
        """Integer arguments of operations that grow: conv groups, norm groups."""
        names = {g.leaf: g.name for g in self.analysis.groups if g.name in self.embeddings}
        paths = {id(m): path for path, m in self.model.named_modules()}
        found = {}
        for module, name, axis in self.analysis.context.attributes:
            whole = form(axis, names)
            new = whole.grown(plan.sizes)
            held = module.__dict__.get(name)
            if (
                id(module) in paths
                and whole.names()
                and type(held) is int
                and held == whole.size
                and held != new
            ):
                path = paths[id(module)]
                found[path, name] = AttributeEdit(path, name, held, new)
        return found

    def _notes(self) -> tuple[str, ...]:
        notes = []
        if self.analysis.random:
            drawn = ", ".join(self.analysis.random)
            notes.append(f"random operations are set to their mean for the proof: {drawn}")
        if self.analysis.unreached:
            some = ", ".join(self.analysis.unreached[:3])
            notes.append(f"{len(self.analysis.unreached)} parameters are never reached: {some}")
        return tuple(notes)


def _own_shapes(
    path: str, module: nn.Module, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]] | None:
    """The shapes of a module's tensors after growth, or None if none of them grows."""
    prefix = f"{path}." if path else ""
    own = {
        key: shapes.get(prefix + key, tuple(x.shape))
        for key, x in [*module._parameters.items(), *module._buffers.items()]
        if x is not None
    }
    grows = any(prefix + key in shapes for key in own)
    for name, shape in shapes.items():  # a parametrized weight has its original's shape
        key, _, original = name.removeprefix(prefix + "parametrizations.").rpartition(".")
        if name.startswith(prefix + "parametrizations.") and original in ("original", "original1"):
            own[key], grows = shape, True
    return own if grows else None


def _spread(tensor: Tensor) -> float:
    """The standard deviation, accumulated in float32 at least."""
    x = tensor.detach()
    x = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    return float(torch.std(x, correction=0)) if x.numel() else 0.0


def _changes_old(plan: Plan, edit: TensorEdit) -> bool:
    """Whether an existing weight gets another value or another place among the old ones."""
    for d in edit.dims:
        e = plan.embedding(d.form)
        if d.role == "read" and e.restricted[0].numel():
            return True
        if not e.keeps_order:
            return True
    return False
