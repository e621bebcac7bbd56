"""From tapes to groups: run the op rules, then read off what must grow together, and whether."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Literal

from torch import Tensor, nn

from gnomon import ops
from gnomon.axes import Axis, factors, form, leaves, resolve, segments
from gnomon.errors import Unsupported
from gnomon.ops.context import Context, Event, Fill, Op, OpRule, Role, Table
from gnomon.ops.pointwise import acts_per_entry, is_pointwise
from gnomon.rules.base import Law
from gnomon.tape import Call, Recording, owned_tensors, record, wants_fake

Verdict = Literal["growable", "normed", "tied", "refused"]


@dataclass(frozen=True)
class Slot:
    """Where a group touches one parameter or buffer.

    axis: what the dimension is made of; the group's own part is named, the rest are sizes.
    role: "write" makes the channels, "follow" acts per channel, "read" mixes them into others.
    """

    name: str
    dim: int
    axis: str
    role: Role


@dataclass(frozen=True)
class Group:
    """Channels that must keep one common width.

    width counts channels where the first writer makes them; step is the least they can grow by
    (heads, convolution groups). reason says why a group is not simply growable.
    """

    name: str
    width: int
    step: int
    slots: tuple[Slot, ...]
    verdict: Verdict
    reason: str
    rules: tuple[str, ...]
    leaf: Axis = field(repr=False, compare=False)
    laws: frozenset[Law] = field(repr=False, compare=False)
    joint: frozenset[str] = field(repr=False, compare=False)

    @property
    def modules(self) -> list[str]:
        """The modules whose parameters write this group."""
        return [slot.name.rpartition(".")[0] for slot in self.slots if slot.role == "write"]


@dataclass(eq=False)
class _Findings:
    """What is known of one leaf while groups are collected."""

    leaf: Axis
    roles: dict[tuple[str, int], set[Role]] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    joint: set[Axis] = field(default_factory=set)
    ambiguous: str = ""


@dataclass(eq=False)
class Analysis:
    """Everything that is known about a model without changing it."""

    recordings: list[Recording]
    context: Context
    groups: tuple[Group, ...]
    unreached: tuple[str, ...]
    fake: bool
    seconds: float

    @property
    def random(self) -> tuple[str, ...]:
        """The random operations of the forward pass."""
        return tuple(sorted(set().union(*(r.random for r in self.recordings))))


def analyse(model: nn.Module, calls: list[Call], extra: Table) -> Analysis:
    """Record every call in eval and in train mode and find the groups.

    Raises Unsupported if the forward pass fails on the example inputs.
    """
    start = time.perf_counter()
    recordings, fake = _record_all(model, calls)
    context = interpret(model, recordings, extra)
    unreached = tuple(
        name
        for name, p in owned_tensors(model).items()
        if name not in context.used and p.is_floating_point() and isinstance(p, nn.Parameter)
    )
    groups = _collect(model, context, unreached)
    return Analysis(recordings, context, groups, unreached, fake, time.perf_counter() - start)


def _record_all(model: nn.Module, calls: list[Call]) -> tuple[list[Recording], bool]:
    fake = wants_fake(model, calls)
    modes = (False, True)
    try:
        return [record(model, c, training=m, fake=fake) for c in calls for m in modes], fake
    except Exception as first:
        if any(p.is_meta for p in model.parameters()) or not fake:
            raise _failed(first) from first
    try:
        return [record(model, c, training=m, fake=False) for c in calls for m in modes], False
    except Exception as second:
        raise _failed(second) from second


def _failed(fault: Exception) -> Unsupported:
    return Unsupported(
        f"the model's forward pass fails on the example inputs in eval or train mode "
        f"({type(fault).__name__}: {fault}). Give inputs that the model runs on: a tensor, a tuple "
        f"(positional), a dict (keywords); with BatchNorm a batch of two or more"
    )


def interpret(model: nn.Module, recordings: Iterable[Recording], extra: Table) -> Context:
    """Run the op rules over the tapes; all recordings share the parameters' axes."""
    t = Context(owned_tensors(model), {id(m): name for name, m in model.named_modules()})
    for recording in recordings:
        t.op = None
        for x in recording.inputs:
            for axis in t.axes(x):
                t.fix(axis, "it is the model's own input")
        for op in recording.ops:
            t.run(op, rule_for(op, extra))
        t.op = None
        for y in recording.outputs:
            for axis in t.axes(y):
                t.mixed(axis, "it is the model's own output")
    return t


def rule_for(op: Op, extra: Table) -> OpRule | None:
    """The user's rule, the table's, the pointwise one by PyTorch's tag, or none."""
    full = op.func._schema.name
    if full in extra:
        return extra[full]
    if full.startswith("aten::"):
        found = ops.TABLE.get(op.name)
        if found is not None:
            return found
    return acts_per_entry if is_pointwise(op.func) else None


def _collect(model: nn.Module, t: Context, unreached: tuple[str, ...]) -> tuple[Group, ...]:
    found = _findings(t)
    owned = owned_tensors(model)
    listed = [f for f in found.values() if _has_channels(f)]
    written = [f for f in listed if any({"write", "follow"} & r for r in f.roles.values())]
    given = [f for f in listed if f not in written]
    inputs = [f"{_base_name(model, t, f)}[input]" for f in given]
    names = dict(zip((f.leaf for f in given), _numbered(inputs), strict=True))
    numbered = _numbered([_base_name(model, t, f) for f in written])
    names |= dict(zip((f.leaf for f in written), numbered, strict=True))
    names = dict(zip(names, _unlike(list(names.values())), strict=True))
    groups = []
    for f in listed:
        width, step = _width(t, f)
        verdict, reason = _verdict(t, f, owned, unreached, width)
        laws = frozenset(
            Law(e.kind, e.reason, e.where) for e in f.events if e.kind in ("uniform", "zero")
        )
        slots = tuple(
            Slot(n, d, str(form(t.dims[n][d], {f.leaf: names[f.leaf]})), _role(roles))
            for (n, d), roles in f.roles.items()
        )
        joint = frozenset(names[leaf] for leaf in f.joint if leaf in names)
        groups.append(
            Group(
                names[f.leaf], width, step, slots, verdict, reason, _allowed(verdict), f.leaf, laws,
                joint,
            )
        )  # fmt: skip
    return tuple(groups)


def _findings(t: Context) -> dict[Axis, _Findings]:
    """Per leaf, in the order of first use: the dimensions it is part of, and all events."""
    found: dict[Axis, _Findings] = {}
    where: dict[str, dict[Axis, list[int]]] = {}
    for name in t.dims:
        if name not in t.used:
            continue
        positions: dict[Axis, list[int]] = defaultdict(list)
        for dim, axis in enumerate(t.dims[name]):
            for leaf in dict.fromkeys(leaves(axis)):
                if leaf.size > 1:
                    positions[leaf].append(dim)
        where[name] = positions
    for use in t.uses:
        handles = t.dims[use.name]
        exact = [d for d, axis in enumerate(handles) if axis is use.axis]
        for leaf in dict.fromkeys(leaves(use.axis)):
            dims = where.get(use.name, {}).get(leaf, [])
            if not dims:
                continue
            f = found.setdefault(leaf, _Findings(leaf))
            chosen = [d for d in dims if d in exact] or dims
            if len(chosen) > 1 and use.role == "read":
                f.ambiguous = use.name
            for dim in chosen:
                f.roles.setdefault((use.name, dim), set()).add(use.role)
    for name, positions in where.items():
        for leaf, dims in positions.items():
            f = found.setdefault(leaf, _Findings(leaf))
            for dim in dims:
                f.roles.setdefault((name, dim), set())
    for event in t.events:
        for leaf in dict.fromkeys(leaves(event.axis)):
            if leaf in found:
                found[leaf].events.append(event)
                if event.kind == "uniform":
                    found[leaf].joint.update(a for a in leaves(event.axis) if a is not leaf)
    return found


def _role(roles: set[Role]) -> Role:
    return "read" if "read" in roles else "write" if "write" in roles else "follow"


def _has_channels(f: _Findings) -> bool:
    """Kernel positions, vocabularies and the like are no channels."""
    said = set().union(*f.roles.values()) if f.roles else set()
    if not said & {"read", "write"}:
        return False
    fixed = [e for e in f.events if e.kind == "fixed"]
    return not fixed or any(e.reason.startswith("it is the model's") for e in fixed)


def _base_name(model: nn.Module, t: Context, f: _Findings) -> str:
    """The module of the first writer; a parameter that a larger module holds keeps its name."""
    for wanted in ("write", "follow", "read"):
        for (name, _), roles in f.roles.items():
            if roles and _role(roles) == wanted:
                path = name.rpartition(".")[0].partition(".parametrizations.")[0]
                path = "" if path.startswith("parametrizations.") else path
                bare = not path or any(True for _ in model.get_submodule(path).children())
                is_parametrized = ".parametrizations." in name
                return name if bare and not is_parametrized else path
    return next(iter(f.roles))[0]


def _numbered(bases: list[str]) -> list[str]:
    """Two groups on one module are told apart by their order: `conv[0]`, `conv[1]`."""
    total: dict[str, int] = defaultdict(int)
    for base in bases:
        total[base] += 1
    seen: dict[str, int] = defaultdict(int)
    names = []
    for base in bases:
        names.append(f"{base}[{seen[base]}]" if total[base] > 1 else base)
        seen[base] += 1
    return names


def _unlike(names: list[str]) -> list[str]:
    """A module may be called `a[0]` itself: then the later name gets a mark."""
    taken: set[str] = set()
    for i in range(len(names)):
        while names[i] in taken:
            names[i] += "'"
        taken.add(names[i])
    return names


def _width(t: Context, f: _Findings) -> tuple[int, int]:
    """Channels at the first writer, and how many one more of the leaf adds."""
    for wanted in ("write", "follow", "read"):
        for (name, dim), roles in f.roles.items():
            if roles and _role(roles) == wanted:
                step = _span(t.dims[name][dim], f.leaf)
                if step:
                    return f.leaf.size * step, step
    return f.leaf.size, 1


def _span(axis: Axis, leaf: Axis) -> int:
    """How many channels of the segment that holds `leaf` belong to each of its entries."""
    axis = resolve(axis)
    if axis is leaf:
        return 1
    if axis.kind == "sum":
        return next((s for part in segments(axis) if (s := _span(part, leaf))), 0)
    if axis.kind == "product":
        parts = factors(axis)
        for i, part in enumerate(parts):
            if inner := _span(part, leaf):
                return inner * prod(resolve(p).size for j, p in enumerate(parts) if j != i)
    return 0


def _verdict(
    t: Context, f: _Findings, owned: Mapping[str, Tensor], unreached: tuple[str, ...], width: int
) -> tuple[Verdict, str]:
    refusal = _refusal(t, f, owned, unreached)
    if refusal:
        return "refused", refusal
    both = [slot[0] for slot, roles in f.roles.items() if "read" in roles and len(roles) > 1]
    if both:
        return "tied", f"'{both[0]}' both writes and reads these channels"
    averaged = next((e for e in f.events if e.kind == "uniform"), None)
    if averaged is not None:
        return "normed", f"{averaged.reason} in '{averaged.where}' averages the channels"
    return "growable", ""


def _refusal(
    t: Context, f: _Findings, owned: Mapping[str, Tensor], unreached: tuple[str, ...]
) -> str:
    own = [e for e in f.events if e.kind == "fixed" or e.kind == "mixed"]
    if own:
        first = min(own, key=lambda e: not e.reason.startswith("it is the model's"))
        return first.reason + (f" in '{first.where}'" if first.where else "")
    if f.ambiguous:
        return f"'{f.ambiguous}' is read along two dimensions at once"
    roles = {role for slot in f.roles.values() for role in slot}
    if "read" not in roles:
        return "nothing reads these channels"
    if "write" not in roles and "follow" not in roles:
        return "no parameter writes these channels"
    for name, _ in f.roles:
        if not owned[name].is_floating_point():
            return (
                f"'{name}' holds {str(owned[name].dtype).removeprefix('torch.')} for each channel"
            )
    return _unreached_neighbour(f, owned, unreached)


def _unreached_neighbour(
    f: _Findings, owned: Mapping[str, Tensor], unreached: tuple[str, ...]
) -> str:
    """A parameter that no recording reached, near a slot and with a dimension of this width."""
    homes = {name.rpartition(".")[0] for name, _ in f.roles}
    near = homes | {home.rpartition(".")[0] for home in homes if home}
    sizes = {owned[name].shape[dim] for name, dim in f.roles}
    for name in unreached:
        home = name.rpartition(".")[0]
        if {home, home.rpartition(".")[0] if home else home} & (near - {""} | homes):
            if sizes & set(owned[name].shape):
                return f"the recorded passes never reach '{name}', which may read these channels"
    return ""


def _allowed(verdict: Verdict) -> tuple[str, ...]:
    if verdict == "growable":
        return ("R2R", "Net2Net", "NetMorph", "Hybrid", "RandPad")
    return ("Net2Net",) if verdict == "normed" else ()


def fill_of(t: Context, name: str, roles: Iterable[Role], tensor: Tensor) -> Fill:
    """How fresh entries of a slot are made when no op rule said it."""
    if name in t.fills:
        return t.fills[name]
    vector = tensor.numel() == max(tensor.shape)
    return "mean" if vector and set(roles) == {"follow"} else "draw"
