"""Try on hollow weights whether the code lets the groups grow that its tape would let grow.

`reshape(B, N, C)` with C read from the input looks on the tape like any other view. Only running
the code on grown shapes tells. Where no attribute explains the difference, the groups of that
operation are refused, and those that meet the same operation of the same class elsewhere.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from gnomon.axes import Axis, leaves, resolve
from gnomon.embedding import monomial
from gnomon.groups import Analysis, Group
from gnomon.ops.context import Op
from gnomon.plan import Plan
from gnomon.planner import Planner
from gnomon.prediction import Prediction
from gnomon.repair import Budget, TiedInCode, repair
from gnomon.rules import NetMorph
from gnomon.surgery import Surgery, hollow, undone_on_error
from gnomon.tape import Call

# What a trial may run, in lengths of the first tape: it tells early what growing would find out,
# and must not cost much more than the analysis.
_LENGTHS = 5
_Place = tuple[type, str, int]
_Part = tuple[_Place, tuple[int, int]]  # which dimension of that operation, and where in it


def tied_in_code(model: nn.Module, calls: Sequence[Call], analysis: Analysis) -> dict[str, str]:
    """The groups that the model's code ties to a number, each with the reason."""
    places = _regrouping_places(analysis)
    suspects = [g for g in analysis.groups if g.verdict == "growable" and g.leaf in places]
    refused: dict[str, str] = {}
    budget = Budget(_LENGTHS * len(analysis.recordings[0].ops) + 1000)
    while suspects and budget.left >= 0:
        fault = _fault(model, calls, analysis, suspects, budget)
        if fault is None:
            break
        blamed = _blamed(analysis, fault, suspects, places)
        if not blamed:
            break
        for alike in _by_places(blamed, places):  # together they fail; which of them alone?
            if budget.left < 0:
                break
            alone = fault if len(blamed) == 1 else _fault(model, calls, analysis, alike[:1], budget)
            if alone is not None:
                refused |= dict.fromkeys((g.name for g in alike), str(alone))
        suspects = [g for g in suspects if g not in blamed]
    return refused


def refuse(analysis: Analysis, refused: Mapping[str, str]) -> Analysis:
    """The analysis with these groups refused."""
    groups = tuple(
        replace(g, verdict="refused", reason=refused[g.name], rules=()) if g.name in refused else g
        for g in analysis.groups
    )
    return replace(analysis, groups=groups)


def _by_places(groups: Sequence[Group], places: dict[Axis, set[_Part]]) -> list[list[Group]]:
    alike: dict[frozenset[_Part], list[Group]] = defaultdict(list)
    for g in groups:
        alike[frozenset(places[g.leaf])].append(g)
    return list(alike.values())


def _regrouping_places(analysis: Analysis) -> dict[Axis, set[_Part]]:
    """Per leaf, the views that regroup it with others: where its size may be written down."""
    found: dict[Axis, set[_Part]] = defaultdict(set)
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
    return found


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


def _fault(
    model: nn.Module,
    calls: Sequence[Call],
    analysis: Analysis,
    suspects: Sequence[Group],
    budget: Budget,
) -> TiedInCode | None:
    """Grow the suspects in shape only, look for the attributes, and take everything back.

    Returns what no attribute explains; None if all is well, or if the budget ended first.
    """
    embeddings = {}
    for g in suspects:
        n = g.width // g.step
        embeddings[g.name] = monomial(torch.arange(n + 2), n, 2)
    plan: Plan = Planner(model, analysis, embeddings, NetMorph(), hollow=True).plan(
        "trial", 0, "", (), ()
    )
    sizes = {g.leaf: embeddings[g.name].size for g in suspects}
    surgery = Surgery()
    with undone_on_error(surgery):
        hollow(model, plan, surgery, fake=analysis.fake)
        try:
            prediction = Prediction(analysis, sizes, first_only=True)
            repair(model, calls, prediction, surgery, budget)
        except TiedInCode as fault:
            return fault if budget.left >= 0 else None
        finally:
            surgery.undo()
    return None


def _blamed(
    analysis: Analysis,
    fault: TiedInCode,
    suspects: Sequence[Group],
    places: dict[Axis, set[_Part]],
) -> list[Group]:
    """The suspects in the failing operation's axes, and those that meet it in other modules."""
    here = fault.difference
    ops = Prediction(analysis, {}).ops[here.recording]
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
