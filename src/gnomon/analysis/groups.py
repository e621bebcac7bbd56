"""From tapes to groups: what must grow together, and whether it may."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from torch import Tensor, nn

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
from gnomon.analysis.links import Link
from gnomon.analysis.norms import Norm
from gnomon.analysis.reading import Reading
from gnomon.axes import Axis, form
from gnomon.errors import GrowthError, Unsupported
from gnomon.ops.context import Context, Event, Fill, Role, Table
from gnomon.recording.tape import Call, Recording, record_each, wants_fake
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
    """What is known about a model without changing it: passes of it, and what their tapes say.

    The tapes are read when something is first asked of them, and raise Stale if the model has other
    tensors or shapes by then: `read` before it is changed.
    """

    recordings: list[Recording]
    fake: bool
    reading: Reading = field(repr=False)
    recorded: float
    settled: Callable[[], tuple[Group, ...]] | None = field(default=None, repr=False)

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """All groups of channels, growable or not."""
        with self.reading.now():
            return _groups(self.reading) if self.settled is None else self.settled()

    @property
    def context(self) -> Context:
        """The axes of every tensor on the tapes."""
        return self.reading.context

    @property
    def links(self) -> Mapping[Axis, Link]:
        """Axes that are summed over in products of activations."""
        return self.reading.links

    @property
    def norms(self) -> tuple[tuple[Norm, ...], ...]:
        """The norms over channels, per recording."""
        return self.reading.norms

    @property
    def unreached(self) -> tuple[str, ...]:
        """The names of parameters that no recorded operation uses."""
        return self.reading.unreached

    @property
    def random(self) -> tuple[str, ...]:
        """The random operations of the forward pass."""
        return tuple(sorted(set().union(*(r.random for r in self.recordings))))

    @property
    def seconds(self) -> float:
        """What recording took, and what was read since."""
        return self.recorded + self.reading.seconds

    @property
    def is_read(self) -> bool:
        """Whether the groups are known."""
        return "groups" in self.__dict__

    def read(self) -> None:
        """Find out all that can be asked, while the model is as it was recorded."""
        _ = self.groups, self.norms


def analyse(
    model: nn.Module,
    calls: list[Call],
    extra: Table,
    recordings: list[Recording] | None = None,
) -> Analysis:
    """Record every call in eval and in train mode; their tapes are read when they are asked.

    recordings: these, if the model as it is was recorded already, on real tensors.
    Raises Unsupported if the forward pass fails on the example inputs.
    """
    start = time.perf_counter()
    fake = False
    if recordings is None:
        recordings, fake = _record_all(model, calls)
    reading = Reading(model, recordings, extra)
    return Analysis(recordings, fake, reading, time.perf_counter() - start)


def _groups(reading: Reading) -> tuple[Group, ...]:
    return _in_words(_collect(reading), reading)


def _in_words(groups: tuple[Group, ...], reading: Reading) -> tuple[Group, ...]:
    """The groups with what the axes of attention are called."""
    linked = reading.links
    words = kinds(reading.context, reading.tapes, linked)
    groups = tuple(
        replace(g, kind=words.get(g.leaf, g.kind), linked=g.leaf in linked) for g in groups
    )
    heads = {g.name: frozenset(s.name for s in g.slots) for g in groups if g.kind == "heads"}
    several = grouped(heads)
    return tuple(replace(g, kind=several.get(g.name, g.kind)) for g in groups)


def _record_all(model: nn.Module, calls: list[Call]) -> tuple[list[Recording], bool]:
    fake = wants_fake(model, calls)
    try:
        return record_each(model, calls, fake=fake), fake
    except GrowthError:
        raise
    except Exception as first:
        if any(p.is_meta for p in model.parameters()) or not fake:
            raise _failed(first) from first
    try:
        return record_each(model, calls, fake=False), False
    except Exception as second:
        raise _failed(second) from second


def _failed(fault: Exception) -> Unsupported:
    return Unsupported(
        f"the model's forward pass could not be recorded on the example inputs, in eval and in "
        f"train mode ({type(fault).__name__}: {fault}). Give inputs that the model runs on: a "
        f"tensor, a tuple (positional), a dict (keywords); with BatchNorm a batch of two or more"
    )


def _collect(reading: Reading) -> tuple[Group, ...]:
    model, t, owned, unreached = reading.model, reading.context, reading.owned, reading.unreached
    found = findings(t, reading.links)
    part_of = {id(op): norm for own in reading.norms for norm in own for op in norm.ops}
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
