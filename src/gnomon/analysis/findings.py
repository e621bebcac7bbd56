"""What the tape said of one leaf: where it is used, what forbids its growth, its name and width."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Literal

from torch import Tensor, nn

from gnomon.analysis.links import Link, only_on_one_side
from gnomon.axes import Axis, factors, leaves, resolve, segments
from gnomon.ops.context import Context, Event, Role

Verdict = Literal["growable", "normed", "tied", "refused"]


@dataclass(eq=False)
class Findings:
    """What is known of one leaf while groups are collected."""

    leaf: Axis
    roles: dict[tuple[str, int], set[Role]] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    joint: set[Axis] = field(default_factory=set)
    ambiguous: str = ""
    linked: bool = False


def findings(t: Context, linked: Mapping[Axis, Link]) -> dict[Axis, Findings]:
    """Per leaf, in the order of first use: the dimensions it is part of, and all events."""
    found: dict[Axis, Findings] = {}
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
            f = found.setdefault(leaf, Findings(leaf))
            chosen = [d for d in dims if d in exact] or dims
            if len(chosen) > 1 and use.role == "read":
                f.ambiguous = use.name
            for dim in chosen:
                f.roles.setdefault((use.name, dim), set()).add(use.role)
    for name, positions in where.items():
        for leaf, dims in positions.items():
            f = found.setdefault(leaf, Findings(leaf))
            for dim in dims:
                f.roles.setdefault((name, dim), set())
    for event in t.events:
        for leaf in dict.fromkeys(leaves(event.axis)):
            if leaf in found:
                found[leaf].events.append(event)
                if event.kind == "uniform":
                    found[leaf].joint.update(a for a in leaves(event.axis) if a is not leaf)
    for leaf, link in linked.items():
        if leaf in found:
            found[leaf].linked = True
            for (name, dim), mask in link.read.items():
                if only_on_one_side(t, leaf, (name, dim), mask):
                    found[leaf].roles[name, dim] = {"read"}
    return found


def role_of(roles: set[Role]) -> Role:
    """The one role of a dimension that is used in several: reading weighs most."""
    return "read" if "read" in roles else "write" if "write" in roles else "follow"


def has_channels(f: Findings) -> bool:
    """Kernel positions, vocabularies and the like are no channels."""
    said = set().union(*f.roles.values()) if f.roles else set()
    if not said & {"read", "write"}:
        return False
    fixed = [e for e in f.events if e.kind == "fixed"]
    return not fixed or any(e.reason.startswith("it is the model's") for e in fixed)


def base_name(model: nn.Module, f: Findings) -> str:
    """The module of the first writer; a parameter that a larger module holds keeps its name."""
    for wanted in ("write", "follow", "read"):
        for (name, _), roles in f.roles.items():
            if wanted in roles or (roles and role_of(roles) == wanted):  # a tied one writes first
                path = name.rpartition(".")[0].partition(".parametrizations.")[0]
                path = "" if path.startswith("parametrizations.") else path
                owner = model.get_submodule(path)
                lists = isinstance(owner, nn.ParameterList | nn.ParameterDict)
                bare = not path or lists or any(True for _ in owner.children())
                is_parametrized = ".parametrizations." in name
                return name if bare and not is_parametrized else path
    return next(iter(f.roles))[0]


def numbered(bases: list[str]) -> list[str]:
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


def unlike(names: list[str]) -> list[str]:
    """A module may be called `a[0]` itself: then the later name gets a mark."""
    taken: set[str] = set()
    for i in range(len(names)):
        while names[i] in taken:
            names[i] += "'"
        taken.add(names[i])
    return names


def width_of(t: Context, f: Findings) -> tuple[int, int]:
    """Channels at the first writer, and how many one more of the leaf adds."""
    for wanted in ("write", "follow", "read"):
        for (name, dim), roles in f.roles.items():
            if roles and role_of(roles) == wanted:
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


def verdict_of(
    f: Findings, owned: Mapping[str, Tensor], unreached: tuple[str, ...]
) -> tuple[Verdict, str]:
    """Whether a leaf may grow, and why not; `unreached` are the tensors no recording used."""
    refusal = _refusal(f, owned, unreached)
    if refusal:
        return "refused", refusal
    both = [slot[0] for slot, roles in f.roles.items() if "read" in roles and len(roles) > 1]
    if both:
        return "tied", f"'{both[0]}' both writes and reads these channels"
    averaged = next((e for e in f.events if e.kind == "uniform"), None)
    if averaged is not None:
        return "normed", f"{averaged.reason} in '{averaged.where}' averages the channels"
    return "growable", ""


def _refusal(f: Findings, owned: Mapping[str, Tensor], unreached: tuple[str, ...]) -> str:
    own = [e for e in f.events if e.kind == "fixed" or e.kind == "mixed"]
    if own:
        first = min(own, key=lambda e: not e.reason.startswith("it is the model's"))
        return first.reason + (f" in '{first.where}'" if first.where else "")
    if f.ambiguous:
        return f"'{f.ambiguous}' is read along two dimensions at once"
    roles = {role for slot in f.roles.values() for role in slot}
    if "read" not in roles and not f.linked:
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
    f: Findings, owned: Mapping[str, Tensor], unreached: tuple[str, ...]
) -> str:
    """A tensor that no recording reached, near a slot and with a dimension of this width.

    Near is the module that owns a slot and, for parameters, the modules beside it.
    """
    homes = {name.rpartition(".")[0] for name, _ in f.roles}
    parents = {home.rpartition(".")[0] for home in homes if home}
    sizes = {owned[name].shape[dim] for name, dim in f.roles}
    for name in unreached:
        home = name.rpartition(".")[0]
        beside = any(not p or f"{home}.".startswith(f"{p}.") for p in parents)
        beside = beside and isinstance(owned[name], nn.Parameter)
        if (home in homes or beside) and sizes & set(owned[name].shape):
            return f"the recorded passes never reach '{name}', which may belong to these channels"
    return ""
