"""Which groups the code lets grow of those that its tape would let grow, alone or with others.

`reshape(B, N, C)` with C read from the input looks on the tape like any other view. Only running
the code on grown shapes tells (see `gnomon.code.trial`). Where no attribute explains the
difference, the groups of that operation are refused, and those that meet the same operation of the
same class elsewhere; unless others can grow along with them, in proportion (see
`gnomon.code.partners`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import nn

from gnomon.analysis.groups import Analysis, Group
from gnomon.axes import resolve
from gnomon.code.partners import partners
from gnomon.code.regrouping import Alike, Place
from gnomon.code.repair import TiedInCode
from gnomon.code.streams import streams
from gnomon.code.trials import STREAMS, Trials
from gnomon.recording.tape import Call

# What trials may run, in lengths of the first tape, and operations and pairs of attributes on top:
# they tell early what growing would find out, and must not cost much more than the analysis.
_ALONE = (5, 8000, 0)  # what fails together is tried alone: then no pair is needed
_ALONG = (2, 3000, 10)
_STREAMS = (6, 8000, 30)
_LONG = 2500  # operations of a tape on which one trial of a stream costs more than it tells


@dataclass(frozen=True)
class Ties:
    """What a model's code ties: groups that cannot grow, with the reason; those that grow along."""

    refused: Mapping[str, str] = field(default_factory=dict)
    along: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def tied_in_code(model: nn.Module, calls: Sequence[Call], analysis: Analysis) -> Ties:
    """The groups that the model's code ties to a number, or to other groups."""
    trials = Trials(model, calls, analysis)
    if not trials.places:
        return Ties()
    search = _Alone(trials)
    trials.allow(*_ALONE)
    search.among(
        [g for g in analysis.groups if g.verdict == "growable" and g.leaf in trials.places]
    )
    along, cannot = dict[str, tuple[str, ...]](), dict[str, str]()
    if len(analysis.recordings[0].ops) <= _LONG:
        trials.allow(*_STREAMS)
        along, cannot = streams(trials, search.refused)
    refused = {n: why for n, why in search.refused.items() if n not in along}
    trials.allow(*_ALONG)
    along = partners(trials, refused, search.roles, search.free, along)
    return Ties({n: why for n, why in refused.items() if n not in along} | cannot, along)


def refuse(analysis: Analysis, ties: Callable[[Analysis], Ties]) -> Analysis:
    """The analysis with the groups refused that are tied, and those joined that grow along.

    ties: says what is tied, once somebody asks for the groups.
    """

    def settled() -> tuple[Group, ...]:
        tied, by_name = ties(analysis), {g.name: g for g in analysis.groups}
        return tuple(_tied(g, tied, by_name) for g in analysis.groups)

    return replace(analysis, settled=settled)


def _tied(g: Group, ties: Ties, groups: Mapping[str, Group]) -> Group:
    if g.name in ties.refused:
        return replace(g, verdict="refused", reason=ties.refused[g.name], rules=())
    along = ties.along.get(g.name, ())
    normed = next((o for n in (g.name, *along) if (o := groups[n]).verdict in STREAMS), None)
    if normed is None or not along:
        return replace(g, along=along)
    rules = normed.rules
    rules = tuple(r for r in rules if r != "Isometry")  # what grows along is under no norm
    if any(law.kind == "zero" for n in (g.name, *along) for law in groups[n].laws):
        rules = tuple(r for r in rules if r != "NetMorph")  # heads have no silent channels
    if g is normed:
        return replace(g, rules=rules, along=along)
    reason = f"it takes '{normed.name}' along: {normed.reason}"
    return replace(g, verdict="normed", reason=reason, rules=rules, along=along)


class _Alone:
    """Which groups cannot grow alone (why, and what they have in common there), and which can."""

    def __init__(self, trials: Trials) -> None:
        self.trials = trials
        self.refused: dict[str, str] = {}
        self.roles: dict[str, object] = {}
        self.free: set[str] = set()

    def among(self, suspects: Sequence[Group]) -> None:
        """Refuse what cannot grow by itself."""
        trials = self.trials
        while suspects and not trials.over:
            tried = self._one_of_each(suspects)
            fault = trials.fault(tried)
            if fault is None:
                if len(tried) == 1 and not trials.over:
                    self.free |= {g.name for g in suspects}
                break
            place, blamed = self._blamed(fault, suspects)
            sure = self._only_one(fault, tried, blamed)
            for alike in self._by_role(blamed, place):  # together they fail; which of them alone?
                if sure in alike:
                    alike.sort(key=lambda g: g is not sure)
                    self._try_alone(alike, place, fault)
                elif not trials.over:
                    self._try_alone(alike, place, None)
            suspects = [g for g in suspects if g not in blamed]
        # Two that share a number pass together, and fail alone.
        for alike in trials.by_alike(suspects):
            if trials.over or alike[0].name in self.free:
                continue
            if self._shares_a_number(alike[0], suspects):
                self._try_alone(alike, None, None)

    def _blamed(
        self, fault: TiedInCode, suspects: Sequence[Group]
    ) -> tuple[Place | None, Sequence[Group]]:
        """The suspects in the failing operation's axes, and those that meet it in other modules.

        Also that operation's place, if they meet it.
        """
        place, touched = self.trials.failing(fault)
        here_too = [g for g in suspects if any(place == at for at, _ in self.trials.alike(g))]
        if any(g.leaf in touched for g in here_too):
            return place, here_too
        # where it is one that was refused before which fails, a number of theirs moved it
        return None, [g for g in suspects if g.leaf in touched] or suspects

    def _only_one(
        self, fault: TiedInCode, tried: Sequence[Group], blamed: Sequence[Group]
    ) -> Group | None:
        """The group that fails alone too: no other that was tried moves numbers of that module."""
        owner = self.trials.failing_in(fault)
        here = [g for g in tried if owner in self.trials.modules[g.leaf]]
        return here[0] if len(here) == 1 and here[0] in blamed else None

    def _by_role(self, groups: Sequence[Group], place: Place | None) -> list[list[Group]]:
        """Those together that are the same part of the operation at a place, whatever comes then.

        Blocks of one class meet it alike, though some go on with a mask, say, and others without.
        """
        if place is None:
            return self.trials.by_alike(groups)
        found: dict[Alike, list[Group]] = defaultdict(list)
        for g in groups:
            found[self._role(g, place)].append(g)
        return list(found.values())

    def _role(self, g: Group, place: Place) -> Alike:
        return frozenset(part for part in self.trials.alike(g) if part[0] == place)

    def _try_alone(
        self, alike: Sequence[Group], place: Place | None, known: TiedInCode | None
    ) -> None:
        """Try the first, and take the answer for all that meet what it met."""
        first = alike[0]
        fault = known or self.trials.fault([first])
        if fault is None and self.trials.over:
            return
        same = [g for g in alike if self.trials.alike(g) == self.trials.alike(first)]
        if fault is None:
            self.free |= {g.name for g in same}
        else:
            there = place is not None and self.trials.failing(fault)[0] == place
            same = list(alike) if there else same
            role = self._role(first, place) if there and place else self.trials.alike(first)
            self.refused |= dict.fromkeys((g.name for g in same), str(fault))
            self.roles |= dict.fromkeys((g.name for g in same), role)
        rest = [g for g in alike if g not in same]
        if rest:
            self._try_alone(rest, place, None)

    def _shares_a_number(self, g: Group, suspects: Sequence[Group]) -> bool:
        """Whether another one has the same size where this one is regrouped."""
        modules = self.trials.modules
        return any(
            h.leaf is not g.leaf
            and resolve(h.leaf).size == resolve(g.leaf).size
            and modules[h.leaf] & modules[g.leaf]
            for h in suspects
        )

    def _one_of_each(self, groups: Sequence[Group]) -> list[Group]:
        """Of those that meet the same operations of the same classes, with the same size, one."""
        found: dict[tuple[Alike, int], Group] = {}
        for g in groups:
            found.setdefault((self.trials.alike(g), resolve(g.leaf).size), g)
        return list(found.values())
