"""Which groups the patterns of a request name: groups, module paths, prefixes, globs.

In a glob `*` and `?` stand for characters; brackets are literal, as in `blocks.*.queries[1]`: a
module path has none, so such a glob is one of names. So is a glob that no module path matches.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from gnomon.analysis.groups import Analysis, Group
from gnomon.axes import Axis, factors, leaves, resolve, segments
from gnomon.errors import NoSuchGroup


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
        called = {g.name for g in groups if _matches(g.name, pattern)}
        if inside and "[" not in pattern:  # a path that is also a name means what lies under it
            called = set()
        if not inside and not called:
            raise NoSuchGroup(_no_such(pattern, groups))
        for group in groups:
            if group.name not in called and group not in inside:
                continue
            if group.name in called or all(_lies_under(m, pattern) for m in _places(group)):
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
    """The modules that write a group; one that nothing writes lies where it is read.

    A bare parameter that gave the group its name is a place of its own.
    """
    written = [slot.name for slot in group.slots if slot.role == "write"]
    named = written or [slot.name for slot in group.slots]
    bare = group.name.partition("[")[0]
    return [name if name == bare else name.rpartition(".")[0] for name in named]


def _lies_under(path: str, pattern: str) -> bool:
    if pattern in ("", "*") or path.startswith(pattern + "."):
        return True
    return path == pattern or _matches(path, pattern) or _matches(path, pattern + ".*")


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern.replace("[", "[[]"))


def _no_such(pattern: str, groups: Sequence[Group]) -> str:
    growable = [g.name for g in groups if g.verdict == "growable"]
    shown = ", ".join(growable[:12]) + (", ..." if len(growable) > 12 else "")
    return f"no group, module path or glob matches '{pattern}'. Growable are: {shown or 'none'}"


def _innermost(candidates: Sequence[Group], analysis: Analysis) -> tuple[list[Group], list[Group]]:
    """Of groups that multiply each other, the inner ones: convolution groups keep their number.

    Where two stand in both orders (a channel shuffle), the first one. Of attention, the heads: the
    width of queries and keys stays, and what the code makes grow along with it.
    """
    by_name = {g.name: g for g in analysis.groups}

    def _is_linked(name: str) -> bool:
        return name in by_name and by_name[name].linked

    growing = {g.leaf: g for g in candidates if g.verdict == "growable"}
    inside: dict[Axis, set[Axis]] = defaultdict(set)  # per leaf, those it is an outer factor of
    for axes in analysis.context.dims.values():
        for axis in axes:
            _note_order(axis, growing, inside)
    taken: set[Axis] = set()
    late = {leaf for leaf, g in growing.items() if g.linked or any(_is_linked(o) for o in g.along)}
    for leaf in sorted(growing, key=lambda leaf: (leaf in late, bool(inside[leaf]))):
        if not any(other in inside[leaf] or leaf in inside[other] for other in taken):
            taken.add(leaf)
    left = [g for g in candidates if g.leaf in growing and g.leaf not in taken]
    return [g for g in candidates if g not in left], left


def _note_order(axis: Axis, growing: Mapping[Axis, Group], inside: dict[Axis, set[Axis]]) -> None:
    axis = resolve(axis)
    if axis.kind == "sum":
        for part in segments(axis):
            _note_order(part, growing, inside)
    if axis.kind == "product":
        inner: set[Axis] = set()
        for part in reversed(factors(axis)):
            found = {leaf for leaf in leaves(part) if leaf in growing}
            for leaf in found:
                inside[leaf] |= inner - {leaf}
            inner |= found
            _note_order(part, growing, inside)
