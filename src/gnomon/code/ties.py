"""Which groups the code lets grow of those that its tape would let grow, alone or with others.

`reshape(B, N, C)` with C read from the input looks on the tape like any other view. Only running
the code on grown shapes tells (see `gnomon.code.trial`). Where no attribute explains the
difference, the groups of that operation are refused, and those that meet the same operation of the
same class elsewhere; unless others can grow along with them, in proportion (see
`gnomon.code.coupling`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from gnomon.analysis.groups import Analysis, Group
from gnomon.axes import Axis, leaves, resolve
from gnomon.code.prediction import essential
from gnomon.code.regrouping import Alike, Part, places_of, regrouping_places
from gnomon.code.repair import Budget, TiedInCode
from gnomon.code.trial import grown_hollow
from gnomon.embedding import monomial
from gnomon.recording.tape import Call

# What trials may run, in lengths of the first tape, and operations and pairs of attributes on top:
# they tell early what growing would find out, and must not cost much more than the analysis.
_ALONE = (5, 8000, 0)  # what fails together is tried alone: then no pair is needed
_ALONG = (2, 3000, 10)
_PARTNERS = 6  # that are tried for one group


@dataclass(frozen=True)
class Ties:
    """What a model's code ties: groups that cannot grow, with the reason; those that grow along."""

    refused: Mapping[str, str] = field(default_factory=dict)
    along: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def tied_in_code(model: nn.Module, calls: Sequence[Call], analysis: Analysis) -> Ties:
    """The groups that the model's code ties to a number, or to other groups."""
    search = _Search(model, calls, analysis)
    search.alone()
    search.partners()
    return Ties(search.refused, search.along)


def refuse(analysis: Analysis, ties: Ties) -> Analysis:
    """The analysis with the groups refused that are tied, and those joined that grow along."""
    by_name = {g.name: g for g in analysis.groups}
    return replace(analysis, groups=tuple(_tied(g, ties, by_name) for g in analysis.groups))


def _tied(g: Group, ties: Ties, groups: Mapping[str, Group]) -> Group:
    if g.name in ties.refused:
        return replace(g, verdict="refused", reason=ties.refused[g.name], rules=())
    along = ties.along.get(g.name, ())
    normed = next((o for n in (g.name, *along) if (o := groups[n]).verdict == "normed"), None)
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


class _Search:
    """Which groups grow alone, and with which others."""

    def __init__(self, model: nn.Module, calls: Sequence[Call], analysis: Analysis) -> None:
        self.model, self.calls, self.analysis = model, calls, analysis
        self.places, self.modules = regrouping_places(analysis)
        self.budget = self._budget(*_ALONE)
        self.refused: dict[str, str] = {}
        self.free: set[str] = set()
        self.along: dict[str, tuple[str, ...]] = {}
        self.suspects = [
            g for g in analysis.groups if g.verdict == "growable" and g.leaf in self.places
        ]

    def _budget(self, lengths: int, operations: int, pairs: int) -> Budget:
        return Budget(lengths * len(self.analysis.recordings[0].ops) + operations, pairs)

    def alone(self) -> None:
        """Refuse what cannot grow by itself."""
        suspects = self.suspects
        while suspects and self.budget.left >= 0:
            fault = self._fault(self._one_of_each(suspects))
            if fault is None:
                break
            blamed = _blamed(self.analysis, fault, suspects, self.places)
            if not blamed:
                break
            for alike in self._by_places(blamed):  # together they fail; which of them alone?
                if self.budget.left < 0:
                    break
                self._try_alone(alike, fault if len(blamed) == 1 else None)
            suspects = [g for g in suspects if g not in blamed]
        # Two that share a number pass together, and fail alone.
        for alike in self._by_places(suspects):
            if self.budget.left >= 0 and self._shares_a_number(alike[0], suspects):
                self._try_alone(alike, None)

    def _try_alone(self, alike: Sequence[Group], known: TiedInCode | None) -> None:
        fault = known or self._fault(alike[:1])
        if fault is None and self.budget.left >= 0:
            self.free |= {g.name for g in alike}
        if fault is not None:
            self.refused |= dict.fromkeys((g.name for g in alike), str(fault))

    def _shares_a_number(self, g: Group, suspects: Sequence[Group]) -> bool:
        """Whether another one has the same size where this one is regrouped: one is attention's."""
        return any(
            h.leaf is not g.leaf
            and resolve(h.leaf).size == resolve(g.leaf).size
            and (h.linked or g.linked)
            and self.modules[h.leaf] & self.modules[g.leaf]
            for h in suspects
        )

    def partners(self) -> None:
        """Look for others that what was refused can grow along with."""
        self.budget = self._budget(*_ALONG)
        able = [g for g in self.analysis.groups if g.verdict in ("growable", "normed")]
        refused = [g for g in self.suspects if g.name in self.refused]
        for alike in self._by_places(refused):
            first = alike[0]
            if first.name not in self.refused:
                continue
            for others in self._choices(first, able):
                common = [h for h in others if self._is_common(h, alike)]
                if any(h.name in self.along for h in common):
                    continue
                members = alike if common else [first]
                fits = self._fault([*members, *others], double=True) is None
                if self.budget.left < 0:
                    return
                if fits:
                    self._join(alike, others, able)
                    self.along |= {h.name: tuple(g.name for g in alike) for h in common}
                    break

    def _is_common(self, h: Group, alike: Sequence[Group]) -> bool:
        """Whether a group is a partner of all of these: a stream that their modules read."""
        return h.verdict == "normed" or (len(alike) > 1 and all(self._meet(g, h) for g in alike))

    def _choices(self, g: Group, able: Sequence[Group]) -> list[list[Group]]:
        """The groups that are regrouped in the same modules: one at a time, then all of them."""
        near = [h for h in able if h is not g and self._meet(g, h)]
        size, own = resolve(g.leaf).size, {(s.name, s.dim) for s in g.slots}

        def order(h: Group) -> tuple[bool, bool, bool]:
            factors = own & {(s.name, s.dim) for s in h.slots}
            return bool(factors), resolve(h.leaf).size != size, h.verdict != "growable"

        near.sort(key=order)
        near = near[: _PARTNERS * max(1, len(self.modules[g.leaf]))]
        growable = [h for h in near if h.verdict == "growable"]
        several = [hs for hs in (growable, near) if len(hs) > 1]
        kinds: dict[Alike | str, list[Group]] = defaultdict(list)
        for h in near:
            kinds[frozenset(self.places[h.leaf]) if h.leaf in self.places else h.name].append(h)
        return [*kinds.values(), *several]

    def _join(self, alike: Sequence[Group], others: Sequence[Group], able: Sequence[Group]) -> None:
        """Each of the alike grows along with what stands to it as `others` do to the first."""
        kinds = [frozenset(self.places[h.leaf]) for h in others if h.leaf in self.places]
        for g in alike:
            own = [
                h
                for h in able
                if h is not g
                and (h in others or frozenset(self.places.get(h.leaf, ())) in kinds)
                and self._meet(g, h)
            ]
            if len(own) < len(others):
                continue
            self.along[g.name] = tuple(h.name for h in own)
            self.refused.pop(g.name, None)
            for h in own:  # the other way round, but for one that is known to grow by itself
                if h.name not in self.free and h.verdict == "growable":
                    self.along.setdefault(h.name, ())
                    self.along[h.name] += (g.name,) if g.name not in self.along[h.name] else ()
                    self.refused.pop(h.name, None)

    def _meet(self, g: Group, h: Group) -> bool:
        """Whether one group has a tensor in a module that regroups the other, or in a child."""
        owners = {id(m) for s in h.slots for m in self._owners(s.name)}
        return bool(self.modules[g.leaf] & (owners | self.modules.get(h.leaf, set())))

    def _owners(self, name: str) -> list[nn.Module]:
        path = name.rpartition(".")[0]
        return [self.model.get_submodule(p) for p in {path, path.rpartition(".")[0]}]

    def _by_places(self, groups: Sequence[Group]) -> list[list[Group]]:
        alike: dict[Alike, list[Group]] = defaultdict(list)
        for g in groups:
            alike[frozenset(self.places[g.leaf])].append(g)
        return list(alike.values())

    def _one_of_each(self, groups: Sequence[Group]) -> list[Group]:
        """Of those that meet the same operations of the same classes, with the same size, one."""
        found: dict[tuple[Alike, int], Group] = {}
        for g in groups:
            found.setdefault((frozenset(self.places[g.leaf]), resolve(g.leaf).size), g)
        return list(found.values())

    def _fault(self, suspects: Sequence[Group], *, double: bool = False) -> TiedInCode | None:
        """Grow the suspects in shape only, look for the attributes, and take everything back.

        Returns what no attribute explains; None if all is well, or if the budget ended first.
        """
        embeddings = {}
        for g in suspects:
            n = resolve(g.leaf).size
            more = n if double else 2
            embeddings[g.name] = monomial(torch.arange(n + more), n, more)
        try:
            grown_hollow(self.model, self.calls, self.analysis, embeddings, self.budget)
        except TiedInCode as fault:
            return fault if self.budget.left >= 0 else None
        return None


def _blamed(
    analysis: Analysis,
    fault: TiedInCode,
    suspects: Sequence[Group],
    places: dict[Axis, set[Part]],
) -> list[Group]:
    """The suspects in the failing operation's axes, and those that meet it in other modules."""
    here = fault.difference
    ops = essential(analysis.recordings[here.recording].ops)
    op = ops[min(here.position, len(ops) - 1)]
    touched = {
        leaf
        for tensor in (*op.outputs, *op.tensors())
        for axis in analysis.context.axes(tensor)
        for leaf in map(resolve, leaves(axis))
    }
    recorded = analysis.recordings[here.recording].ops
    place = places_of(recorded)[recorded.index(op)]
    here_too = [g for g in suspects if any(place == at for at, _ in places[g.leaf])]
    direct = [g for g in here_too if g.leaf in touched]
    return here_too if direct else [g for g in suspects if g.leaf in touched]
