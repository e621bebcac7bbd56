"""Try on hollow weights whether the code lets the groups grow that its tape would let grow.

`reshape(B, N, C)` with C read from the input looks on the tape like any other view. Only running
the code on grown shapes tells. Where no attribute explains the difference, the groups of that
operation are refused, and those that meet the same operation of the same class elsewhere; unless
others can grow along with them, in proportion (see `gnomon.coupling`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn
from torch.autograd.grad_mode import _unsafe_preserve_version_counter

from gnomon.axes import Axis, leaves, resolve
from gnomon.embedding import Embedding, monomial
from gnomon.errors import Unsupported
from gnomon.groups import Analysis, Group
from gnomon.ops.context import Op
from gnomon.plan import Plan
from gnomon.planner import Planner
from gnomon.prediction import Prediction, essential
from gnomon.repair import Budget, TiedInCode, repair
from gnomon.rules import NetMorph
from gnomon.surgery import Surgery, hollow, undone_on_error
from gnomon.tape import Call, owned_tensors

# What trials may run, in lengths of the first tape, and operations and pairs of attributes on top:
# they tell early what growing would find out, and must not cost much more than the analysis.
_ALONE = (5, 1200, 0)  # what fails together is tried alone: then no pair is needed
_ALONG = (2, 600, 10)
_PARTNERS = 6  # that are tried for one group
_Place = tuple[type, str, int]
_Part = tuple[_Place, tuple[int, int]]  # which dimension of that operation, and where in it
_Alike = frozenset[_Part]


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
        self.places, self.modules = _regrouping_places(analysis)
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
        kinds: dict[_Alike | str, list[Group]] = defaultdict(list)
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
        alike: dict[_Alike, list[Group]] = defaultdict(list)
        for g in groups:
            alike[frozenset(self.places[g.leaf])].append(g)
        return list(alike.values())

    def _one_of_each(self, groups: Sequence[Group]) -> list[Group]:
        """Of those that meet the same operations of the same classes, with the same size, one."""
        found: dict[tuple[_Alike, int], Group] = {}
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
            _grown_hollow(self.model, self.calls, self.analysis, embeddings, self.budget)
        except TiedInCode as fault:
            return fault if self.budget.left >= 0 else None
        return None


def changed_scales(
    model: nn.Module, calls: Sequence[Call], analysis: Analysis, embeddings: Mapping[str, Embedding]
) -> dict[str, float]:
    """By how much more the code will scale each growing product of activations.

    The plan's shapes are tried on hollow weights, and taken back. Raises TiedInCode where the code
    does not let them be.
    """
    names = {g.leaf: g.name for g in analysis.groups if g.name in embeddings}
    chains = [c for a, link in analysis.links.items() if a in names for c in link.chains]
    if not any(chains) and not any(g.along for g in analysis.groups if g.name in embeddings):
        return {}
    found = _grown_hollow(model, calls, analysis, embeddings, Budget(1 << 62))
    scales: dict[str, float] = {}
    for leaf, ratios in found.ratios().items():
        if len(ratios) > 1:
            raise Unsupported(
                f"'{names[leaf]}' cannot grow: its products of activations come to be scaled "
                f"differently ({', '.join(f'{r:.4g}' for r in sorted(ratios))})"
            )
        for ratio in ratios - {1.0}:
            scales[names[leaf]] = ratio
    return scales


def _grown_hollow(
    model: nn.Module,
    calls: Sequence[Call],
    analysis: Analysis,
    embeddings: Mapping[str, Embedding],
    budget: Budget,
) -> Prediction:
    """What a prediction saw when the shapes were tried. Raises TiedInCode if they cannot be."""
    plan: Plan = Planner(model, analysis, dict(embeddings), NetMorph(), hollow=True).plan(
        "trial", 0, "", (), ()
    )
    sizes = {g.leaf: embeddings[g.name].size for g in analysis.groups if g.name in embeddings}
    prediction, surgery = Prediction(analysis, sizes, short=True), Surgery()
    with _unsafe_preserve_version_counter(tuple(owned_tensors(model).values())):
        with undone_on_error(surgery):
            hollow(model, plan, surgery, fake=analysis.fake)
            try:
                repair(model, calls, prediction, surgery, budget)
            finally:
                surgery.undo()
    return prediction


def _regrouping_places(
    analysis: Analysis,
) -> tuple[dict[Axis, set[_Part]], dict[Axis, set[int]]]:
    """Per leaf, the views that regroup it with others: where its size may be written down.

    Also the modules in which they are, by identity.
    """
    found: dict[Axis, set[_Part]] = defaultdict(set)
    modules: dict[Axis, set[int]] = defaultdict(set)
    for recording in analysis.recordings:
        for op, place in zip(recording.ops, _places(recording.ops), strict=True):
            if op.name not in ("view", "_unsafe_view", "reshape"):
                continue
            sides = [analysis.context.axes(op.args[0]), analysis.context.made(op)[0]]
            before, after = ([resolve(a) for a in side if resolve(a).size > 1] for side in sides)
            if before == after:
                continue
            for number, axis in enumerate([*before, *after]):
                inner = leaves(axis)
                if len(inner) > 1:
                    for i, leaf in enumerate(inner):
                        found[leaf].add((place, (number, i)))
                        modules[leaf].add(id(op.path[-1]) if op.path else 0)
    return found, modules


def _places(ops: Sequence[Op]) -> list[_Place]:
    """Each operation by its module's class, its name, and its number in that call of the module."""
    counts: dict[tuple[int, ...], dict[str, int]] = defaultdict(lambda: defaultdict(int))
    found = []
    for op in ops:
        counted = counts[tuple(id(m) for m in op.path)]
        owner = type(op.path[-1]) if op.path else type(None)
        found.append((owner, op.name, counted[op.name]))
        counted[op.name] += 1
    return found


def _blamed(
    analysis: Analysis,
    fault: TiedInCode,
    suspects: Sequence[Group],
    places: dict[Axis, set[_Part]],
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
    place = _places(recorded)[recorded.index(op)]
    here_too = [g for g in suspects if any(place == at for at, _ in places[g.leaf])]
    direct = [g for g in here_too if g.leaf in touched]
    return here_too if direct else [g for g in suspects if g.leaf in touched]
