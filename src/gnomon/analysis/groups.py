"""From tapes to groups: run the op rules, then read off what must grow together, and whether."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from gnomon import ops
from gnomon.analysis.copies import follow_originals
from gnomon.analysis.findings import (
    Verdict,
    base_name,
    findings,
    has_channels,
    numbered,
    role_of,
    unlike,
    verdict_of,
    width_of,
)
from gnomon.analysis.kinds import grouped, kinds
from gnomon.analysis.links import Link, links
from gnomon.analysis.norms import Norm, find_norms
from gnomon.axes import Axis, form
from gnomon.errors import GrowthError, Unsupported
from gnomon.ops.context import Context, Event, Fill, Op, OpRule, Role, Table
from gnomon.ops.pointwise import acts_per_entry, is_pointwise
from gnomon.recording.kept import all_kept
from gnomon.recording.tape import Call, Recording, owned_tensors, record, wants_fake
from gnomon.rules.base import Law


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

    kind says in words what its channels are: "channels", or an axis of attention. linked: they are
    summed over in a product of activations. along: groups that the model's code makes grow with
    this one, to the same width.
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
    kind: str = "channels"
    linked: bool = False
    along: tuple[str, ...] = ()


@dataclass(eq=False)
class Analysis:
    """Everything that is known about a model without changing it."""

    recordings: list[Recording]
    context: Context
    groups: tuple[Group, ...]
    unreached: tuple[str, ...]
    fake: bool
    seconds: float
    links: Mapping[Axis, Link] = field(default_factory=dict)
    norms: tuple[tuple[Norm, ...], ...] = ()

    @property
    def random(self) -> tuple[str, ...]:
        """The random operations of the forward pass."""
        return tuple(sorted(set().union(*(r.random for r in self.recordings))))


def analyse(
    model: nn.Module,
    calls: list[Call],
    extra: Table,
    recordings: list[Recording] | None = None,
) -> Analysis:
    """Record every call in eval and in train mode and find the groups.

    recordings: these, if the model as it is was recorded already, on real tensors.
    Raises Unsupported if the forward pass fails on the example inputs.
    """
    start = time.perf_counter()
    fake = False
    if recordings is None:
        recordings, fake = _record_all(model, calls)
    context = interpret(model, recordings, extra)
    follow_originals(model, context)
    unreached = tuple(
        name
        for name, p in owned_tensors(model).items()
        if name not in context.used and p.is_floating_point()
    )
    tapes = [recording.ops for recording in recordings]
    linked = links(context, tapes)
    averaged = any(event.kind == "uniform" for event in context.events)
    norms = find_norms(model, context, recordings) if averaged else ((),) * len(recordings)
    groups = _in_words(_collect(model, context, unreached, linked, norms), context, tapes, linked)
    seconds = time.perf_counter() - start
    return Analysis(recordings, context, groups, unreached, fake, seconds, linked, norms)


def _in_words(
    groups: tuple[Group, ...],
    context: Context,
    tapes: list[list[Op]],
    linked: Mapping[Axis, Link],
) -> tuple[Group, ...]:
    """The groups with what the axes of attention are called."""
    words = kinds(context, tapes, linked)
    groups = tuple(
        replace(g, kind=words.get(g.leaf, g.kind), linked=g.leaf in linked) for g in groups
    )
    heads = {g.name: frozenset(s.name for s in g.slots) for g in groups if g.kind == "heads"}
    several = grouped(heads)
    return tuple(replace(g, kind=several.get(g.name, g.kind)) for g in groups)


def _record_all(model: nn.Module, calls: list[Call]) -> tuple[list[Recording], bool]:
    fake = wants_fake(model, calls)
    modes = (False, True)
    try:
        return [record(model, c, training=m, fake=fake) for c in calls for m in modes], fake
    except GrowthError:
        raise
    except Exception as first:
        if any(p.is_meta for p in model.parameters()) or not fake:
            raise _failed(first) from first
    try:
        return [record(model, c, training=m, fake=False) for c in calls for m in modes], False
    except Exception as second:
        raise _failed(second) from second


def _failed(fault: Exception) -> Unsupported:
    return Unsupported(
        f"the model's forward pass could not be recorded on the example inputs, in eval and in "
        f"train mode ({type(fault).__name__}: {fault}). Give inputs that the model runs on: a "
        f"tensor, a tuple (positional), a dict (keywords); with BatchNorm a batch of two or more"
    )


def interpret(model: nn.Module, recordings: Iterable[Recording], extra: Table) -> Context:
    """Run the op rules over the tapes; all recordings share the parameters' axes."""
    modules = {id(m): name for name, m in model.named_modules()}
    t = Context(owned_tensors(model), modules, all_kept(model))
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


def _collect(
    model: nn.Module,
    t: Context,
    unreached: tuple[str, ...],
    linked: Mapping[Axis, Link],
    norms: tuple[tuple[Norm, ...], ...],
) -> tuple[Group, ...]:
    found = findings(t, linked)
    part_of = {id(op): norm for own in norms for norm in own for op in norm.ops}
    owned = owned_tensors(model)
    listed = [f for f in found.values() if has_channels(f)]
    written = [f for f in listed if any({"write", "follow"} & r for r in f.roles.values())]
    given = [f for f in listed if f not in written]
    inputs = [f"{base_name(model, f)}[input]" for f in given]
    names = dict(zip((f.leaf for f in given), numbered(inputs), strict=True))
    own = numbered([base_name(model, f) for f in written])
    names |= dict(zip((f.leaf for f in written), own, strict=True))
    names = dict(zip(names, unlike(list(names.values())), strict=True))
    groups = []
    for f in listed:
        width, step = width_of(t, f)
        verdict, reason = verdict_of(f, owned, unreached)
        laws = frozenset(
            law for e in f.events if (law := _law(e, part_of.get(id(e.op)))) is not None
        )
        slots = tuple(
            Slot(n, d, str(form(t.dims[n][d], {f.leaf: names[f.leaf]})), role_of(roles))
            for (n, d), roles in f.roles.items()
        )
        joint = frozenset(names[leaf] for leaf in f.joint if leaf in names)
        groups.append(
            Group(
                names[f.leaf], width, step, slots, verdict, reason, _allowed(verdict, laws), f.leaf,
                laws, joint,
            )
        )  # fmt: skip
    return tuple(groups)


def _law(event: Event, norm: Norm | None) -> Law | None:
    """What an event demands; a norm that is known is one demand, whatever it is written with."""
    if event.kind == "uniform":
        return Law("uniform", event.reason, event.where, norm.kind if norm else "")
    if event.kind == "zero" and norm is None:
        return Law("zero", event.reason, event.where)
    return None


def _allowed(verdict: Verdict, laws: frozenset[Law]) -> tuple[str, ...]:
    if verdict == "growable":
        return ("R2R", "Net2Net", "NetMorph", "Hybrid", "RandPad")
    kinds = {law.norm for law in laws if law.kind == "uniform"}
    if verdict == "normed":
        one = ("NetMorph",) if len(kinds) == 1 and "" not in kinds else ()
        return ("Net2Net", *one, *(("Isometry",) if "" not in kinds else ()))
    if verdict == "tied" and "" not in kinds and len(kinds) < 2:
        return ("Net2Net", "NetMorph", "Isometry") if kinds else ("NetMorph",)
    return ()


def fill_of(t: Context, name: str, roles: Iterable[Role], tensor: Tensor) -> Fill:
    """How fresh entries of a slot are made when no op rule said it."""
    if name in t.fills:
        return t.fills[name]
    vector = tensor.numel() == max(tensor.shape)
    learns = isinstance(tensor, nn.Parameter)
    follows = set(roles) == {"follow"}
    if follows and not vector and not learns:
        return "copied"  # a mask of zeros, or of noise, would be neither alive nor a mask
    return "mean" if vector and (follows or not learns) else "draw"


def table(model: nn.Module, analysis: Analysis) -> str:
    """The groups as a table a person can read."""
    parameters = sum(p.numel() for p in model.parameters())
    growable = sum(g.verdict == "growable" for g in analysis.groups)
    title = f"{type(model).__name__}: {parameters:,} parameters, "
    lines = [title + f"{growable} of {len(analysis.groups)} groups growable"]
    name_width = max([5, *(len(g.name) for g in analysis.groups)])
    lines.append(f"  {'group':{name_width}}  {'width':>6} {'step':>4} {'slots':>5}  may grow")
    for g in analysis.groups:
        may = "any rule" if g.verdict == "growable" else f"{g.verdict}: {g.reason}"
        may += f"; only {', '.join(g.rules)}" if g.rules and g.verdict != "growable" else ""
        may = may if g.kind == "channels" else f"{g.kind}: {may}"
        may += f"; takes along {', '.join(g.along)}" if g.along else ""
        lines.append(f"  {g.name:{name_width}}  {g.width:>6} {g.step:>4} {len(g.slots):>5}  {may}")
    for operation, where in analysis.context.unknown.items():
        lines.append(f"  no rule for {operation} in '{where}': what it touches stays as it is")
    if analysis.unreached:
        shown = ", ".join(analysis.unreached[:4]) + (", ..." if len(analysis.unreached) > 4 else "")
        lines.append(f"  never reached by the example inputs: {shown}")
    if analysis.random:
        lines.append(f"  random: {', '.join(analysis.random)}")
    return "\n".join(lines)
