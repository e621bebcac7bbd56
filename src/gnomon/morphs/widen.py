"""Widen: more channels for groups, each with everything that is coupled to them."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import SupportsFloat, SupportsIndex, cast

from gnomon.analysis.flops import grown_flops
from gnomon.analysis.groups import Group
from gnomon.axes import resolve
from gnomon.code.coupling import in_proportion, together
from gnomon.code.trial import changed_scales
from gnomon.code.wording import with_settings
from gnomon.draw import Draw
from gnomon.embedding import Embedding
from gnomon.errors import CannotPreserve, GrowthError, Unsupported
from gnomon.morphs.one_ended import one_ended
from gnomon.morphs.selection import select
from gnomon.morphs.subject import Subject
from gnomon.planning.edit import WidthChange
from gnomon.planning.plan import Plan
from gnomon.planning.planner import Planner
from gnomon.planning.silence import Silence, silence, silent
from gnomon.planning.tied_streams import equal_copies, shares
from gnomon.planning.turning import Turning, turning
from gnomon.rules import R2R, Rule

MOST_CHANNELS = 1 << 24  # beyond this a request is a slip of the keyboard


@dataclass(frozen=True)
class Widen:
    """More channels for the groups that `where` names.

    where: a group's name, a module path, a prefix or a glob, or a list of these. A prefix takes
           the groups whose writers all lie under it; what cannot grow there is skipped and listed.
           A glob (`*`, `?`; brackets are literal) may also match names: "blocks.*.queries[1]".
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
            plan = with_settings(subject.model, plan, subject.analysis, subject.calls)
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
        by_name = {g.name: g for g in analysis.groups}
        grown = _Grown(self, subject, by_name, {g.name for g, _ in chosen}, seed)
        for group, exact in chosen:
            if group.verdict == "refused":
                if exact:
                    raise Unsupported(f"'{group.name}' cannot grow: {group.reason}")
                skipped.append((group.name, group.reason))
                continue
            try:
                grown.take(group)
            except GrowthError as refusal:
                if exact:
                    raise
                skipped.append((group.name, str(refusal)))
        embeddings = grown.embeddings
        if not embeddings:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped[:8])
            raise Unsupported(f"nothing under {list(self.patterns)} can grow by {self}. {reasons}")
        skipped = [(name, why) for name, why in skipped if name not in embeddings]
        changed = changed_scales(subject.model, subject.calls, analysis, embeddings)
        scales = {name: 1 / ratio for name, ratio in changed.items()}
        planner = Planner(
            subject.model, analysis, embeddings, self.rule,
            scales=scales, silences=grown.silences, gains=grown.gains, turnings=grown.turnings,
        )  # fmt: skip
        widths = [replace(w, new=planner.width(by_name[w.group])) for w in grown.widths.values()]
        plan = planner.plan(str(self), seed, subject.fingerprint, tuple(widths), tuple(skipped))
        return replace(plan, notes=(*plan.notes, *grown.notes))


@dataclass
class _Grown:
    """The embeddings of a plan while it is made: of the groups asked for, and of those along."""

    morph: Widen
    subject: Subject
    groups: Mapping[str, Group]
    selected: set[str]
    seed: int
    embeddings: dict[str, Embedding] = field(default_factory=dict)
    widths: dict[str, WidthChange] = field(default_factory=dict)
    silences: dict[str, Silence] = field(default_factory=dict)
    gains: dict[str, tuple[float, float]] = field(default_factory=dict)
    turnings: dict[str, Turning] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def take(self, group: Group) -> None:
        """Grow a group as asked, and in proportion what the code makes grow along."""
        n = resolve(group.leaf).size
        names = together(group.name, self.groups)
        factor = Fraction(n + self._more(group), n)
        if len(names) > 1:  # others that were asked for may want more
            asked = (self.groups[o] for o in names if o in self.selected and o != group.name)
            factors = [
                Fraction(o.width // o.step + self._more(o), o.width // o.step) for o in asked
            ]
            factor = max([factor, *factors])
        found = {}
        for name, size in zip(names, in_proportion(names, self.groups, factor), strict=True):
            other = self.groups[name]
            found[name] = self._embed_along(group, other, size - resolve(other.leaf).size)
        turnings = self._turned(found)
        silences, gains = self._for_norms(found)
        self.embeddings |= found
        self.turnings |= turnings
        for turned in turnings.values():
            gains |= turned.gains
            self.notes += turned.notes
        self.silences |= silences
        self.gains |= gains
        for name in names:
            other = self.groups[name]
            new = found[name].size * other.step
            own = name in self.selected
            asked_for = self.morph.asked(other.width) if own else new
            self.widths[name] = WidthChange(name, other.width, asked_for, new)
            if not own:
                note = f"the code makes '{name}' grow along with '{group.name}'"
                self.notes += [note] if note not in self.notes else []

    def _turned(self, found: Mapping[str, Embedding]) -> dict[str, Turning]:
        """What the tensors of streams that are turned do."""
        subject = self.subject
        return {
            name: turning(subject.model, subject.analysis, self.groups[name], e.size)
            for name, e in found.items()
            if e.turn is not None
        }

    def _for_norms(
        self, found: Mapping[str, Embedding]
    ) -> tuple[dict[str, Silence], dict[str, tuple[float, float]]]:
        """What the norms over a stream, and the tables that are tied to it, must hold then."""
        analysis = self.subject.analysis
        silences: dict[str, Silence] = {}
        gains: dict[str, tuple[float, float]] = {}
        for name, e in found.items():
            if e.turn is not None:
                continue
            group = self.groups[name]
            averaged = any(law.kind == "uniform" for law in group.laws)
            if group.verdict == "tied" and not silent(e):
                gains |= shares(analysis, group, equal_copies(e))
            if silent(e) and (group.verdict == "tied" or (group.verdict == "normed" and averaged)):
                silences[name] = silence(self.subject.model, analysis, group)
        return silences, gains

    def _more(self, group: Group) -> int:
        asked = self.morph.asked(group.width)
        if asked > MOST_CHANNELS:
            raise Unsupported(
                f"'{group.name}' cannot have {asked} channels (at most {MOST_CHANNELS})"
            )
        k = -(-(asked - group.width) // group.step)
        if k < 1:
            raise Unsupported(f"'{group.name}' is {group.width} wide already; asked {asked}")
        return k

    def _embed_along(self, group: Group, other: Group, k: int) -> Embedding:
        """As `_embed`, of a group that was not asked for."""
        try:
            return self._embed(other, k)
        except CannotPreserve as refusal:
            if other is group or other.name in self.selected:
                raise
            rules = ", ".join(f"{name}()" for name in group.rules if name != "RandPad")
            raise CannotPreserve(
                f"the code makes '{other.name}' grow along with '{group.name}', and {refusal}. "
                f"Both grow by: {rules}"
            ) from None

    def _embed(self, group: Group, k: int) -> Embedding:
        try:
            draw = Draw(self.seed, group.name, -1)
            e = self.morph.rule.embed(group.width // group.step, k, group.laws, draw)
        except CannotPreserve as refusal:
            raise CannotPreserve(f"'{group.name}' cannot grow by {self.morph}: {refusal}") from None
        missing = sorted(group.joint - self.selected)
        if missing and any(law.kind == "uniform" for law in group.laws) and not silent(e):
            raise CannotPreserve(
                f"'{group.name}' is averaged together with {missing}: name them too, with Net2Net()"
            )
        averaged = any(law.norm for law in group.laws)
        if group.verdict == "tied" and not (silent(e) or (averaged and equal_copies(e))):
            raise Unsupported(
                f"'{group.name}' cannot grow by {self.morph}: {group.reason}, so no rule can set "
                f"them apart: untie it (b.weight = nn.Parameter(a.weight.clone())), or use "
                f"NetMorph(zero='writers')"
            )
        return e


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
