"""Widen: more channels for groups, each with everything that is coupled to them."""

from __future__ import annotations

import math
import operator
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import SupportsFloat, SupportsIndex, cast

from gnomon.axes import Axis, factors, leaves, resolve, segments
from gnomon.describing import with_settings
from gnomon.draw import Draw
from gnomon.edit import WidthChange
from gnomon.embedding import Embedding
from gnomon.errors import CannotPreserve, GrowthError, NoSuchGroup, Unsupported
from gnomon.flops import grown_flops
from gnomon.groups import Analysis, Group
from gnomon.morphs.one_ended import one_ended
from gnomon.morphs.subject import Subject
from gnomon.plan import Plan
from gnomon.planner import Planner
from gnomon.rules import R2R, Rule
from gnomon.silence import Silence, silence, silent
from gnomon.tied_streams import equal_copies, shares

MOST_CHANNELS = 1 << 24  # beyond this a request is a slip of the keyboard


@dataclass(frozen=True)
class Widen:
    """More channels for the groups that `where` names.

    where: a group's name, a module path, a prefix or a glob, or a list of these. A prefix takes
           the groups whose writers all lie under it; what cannot grow there is skipped and listed.
    by, to, add: exactly one; new widths round up to the group's step.
    until: paths of `gnomon.blocks.Residual` at which a widened stream ends: their shortcut reads
           the new channels, r(x) = x + P x_L - P x_R, and does not pass them on. In code of your
           own the `+` cannot be changed: there the whole stream grows, and the plan says so.

    Numbers in settings that the model was built from (a `config`) are changed with the widths if it
    can be built from them again; the plan says so, or that none of them says the new widths.

    Raises ValueError if the request makes no sense for any model.
    """

    where: str | Sequence[str]
    by: float | None = None
    to: int | None = None
    add: int | None = None
    rule: Rule = field(default_factory=R2R)
    until: str | Sequence[str] = ()

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
        listed = isinstance(self.until, str | Sequence)
        if not listed or not all(isinstance(path, str) and path for path in self.ends):
            raise ValueError(f"until must name modules, not {self.until!r}")
        named = isinstance(self.where, str | Sequence) and len(self.patterns) > 0
        if not named or not all(isinstance(p, str) for p in self.patterns):
            raise ValueError(
                f"where must name groups, paths, prefixes or globs, not {self.where!r}"
            )

    @property
    def ends(self) -> tuple[str, ...]:
        """`until` as a tuple."""
        return (self.until,) if isinstance(self.until, str) else tuple(self.until)

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
        some = ", ".join(map(repr, self.patterns[:2])) + (", ..." if self.patterns[2:] else "")
        where = repr(self.where) if isinstance(self.where, str) else f"[{some}]"
        until = f", until={self.until!r}" if self.until else ""
        return f"Widen({where}, {amount}, rule={self.rule!r}{until})"

    def plan(self, subject: Subject, seed: int) -> Plan:
        """The edits on this model. Raises GrowthError where something named exactly cannot grow."""
        with one_ended(subject, self.ends) as (ended, modules, notes):
            plan = self._plan(ended, seed)
        if not modules:
            plan = with_settings(subject.model, plan)
        flops, _ = grown_flops(subject.analysis, {})
        return replace(
            plan,
            fingerprint=subject.fingerprint,
            modules=modules,
            notes=(*plan.notes, *notes),
            parameters=(subject.parameters, plan.parameters[1]),
            flops=(flops, plan.flops[1]),
        )

    def _plan(self, subject: Subject, seed: int) -> Plan:
        analysis = subject.analysis
        chosen, skipped = select(self.patterns, analysis.groups, analysis)
        embeddings: dict[str, Embedding] = {}
        widths: list[WidthChange] = []
        silences: dict[str, Silence] = {}
        gains: dict[str, tuple[float, float]] = {}
        for group, exact in chosen:
            if group.verdict == "refused":
                if exact:
                    raise Unsupported(f"'{group.name}' cannot grow: {group.reason}")
                skipped.append((group.name, group.reason))
                continue
            try:
                e, change = self._embed(group, {g.name for g, _ in chosen}, seed)
                if group.verdict == "tied" and not silent(e):
                    gains |= shares(analysis, group, equal_copies(e))
                if group.verdict in ("normed", "tied") and silent(e):
                    silences[group.name] = silence(subject.model, analysis, group)
                embeddings[group.name] = e
                widths.append(change)
            except GrowthError as refusal:
                if exact:
                    raise
                skipped.append((group.name, str(refusal)))
        if not embeddings:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped[:8])
            raise Unsupported(f"nothing under {list(self.patterns)} can grow by {self}. {reasons}")
        planner = Planner(
            subject.model, analysis, embeddings, self.rule, silences=silences, gains=gains
        )
        by_name = {g.name: g for g, _ in chosen}
        widths = [replace(w, new=planner.width(by_name[w.group])) for w in widths]
        return planner.plan(str(self), seed, subject.fingerprint, tuple(widths), tuple(skipped))

    def _embed(self, group: Group, selected: set[str], seed: int) -> tuple[Embedding, WidthChange]:
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
        missing = sorted(group.joint - selected)
        if missing and any(law.kind == "uniform" for law in group.laws) and not silent(e):
            raise CannotPreserve(
                f"'{group.name}' is averaged together with {missing}: name them too, with Net2Net()"
            )
        averaged = any(law.norm for law in group.laws)
        if group.verdict == "tied" and not (silent(e) or (averaged and equal_copies(e))):
            raise Unsupported(
                f"'{group.name}' cannot grow by {self}: {group.reason}, so no rule can set them "
                f"apart: untie it (b.weight = nn.Parameter(a.weight.clone())), or use "
                f"NetMorph(zero='writers')"
            )
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
    return path == pattern or fnmatchcase(path, pattern) or fnmatchcase(path, pattern + ".*")


def _no_such(pattern: str, groups: Sequence[Group]) -> str:
    growable = [g.name for g in groups if g.verdict == "growable"]
    shown = ", ".join(growable[:12]) + (", ..." if len(growable) > 12 else "")
    return f"no group, module path or glob matches '{pattern}'. Growable are: {shown or 'none'}"


def _innermost(candidates: Sequence[Group], analysis: Analysis) -> tuple[list[Group], list[Group]]:
    """Of groups that multiply each other, the inner ones: convolution groups keep their number.

    Where two stand in both orders (a channel shuffle), the first one.
    """
    growing = {g.leaf: g for g in candidates if g.verdict == "growable"}
    inside: dict[Axis, set[Axis]] = defaultdict(set)  # per leaf, those it is an outer factor of
    for axes in analysis.context.dims.values():
        for axis in axes:
            _note_order(axis, growing, inside)
    taken: set[Axis] = set()
    for leaf in sorted(growing, key=lambda leaf: bool(inside[leaf])):
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
