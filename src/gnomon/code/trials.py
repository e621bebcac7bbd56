"""Grow groups in shape only, to see what their model's code makes of it, for a bounded price."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import nn

from gnomon.analysis.groups import Analysis, Group
from gnomon.axes import Axis, leaves, resolve
from gnomon.code.prediction import essential
from gnomon.code.regrouping import Alike, Place, places_of, regrouping_places
from gnomon.code.repair import Budget, TiedInCode
from gnomon.code.trial import grown_hollow
from gnomon.embedding import monomial
from gnomon.ops.context import Op
from gnomon.recording.tape import Call

STREAMS = ("normed", "tied")


class Trials:
    """Trials of one model, and where its code regroups which groups."""

    def __init__(self, model: nn.Module, calls: Sequence[Call], analysis: Analysis) -> None:
        self.model, self.calls, self.analysis = model, calls, analysis
        self.places, self.modules = regrouping_places(analysis)
        self.able = [g for g in analysis.groups if g.verdict != "refused" and g.rules]
        self.budget = Budget(0)
        self._owners: dict[str, set[int]] = {}  # modules of a group's tensors and those around

    def allow(self, lengths: int, operations: int, pairs: int) -> None:
        """Let trials run so many lengths of the first tape and operations, from now on."""
        self.budget = Budget(lengths * len(self.analysis.recordings[0].ops) + operations, pairs)

    @property
    def over(self) -> bool:
        """Whether the budget is spent."""
        return self.budget.left < 0

    def fault(self, groups: Sequence[Group], *, double: bool = False) -> TiedInCode | None:
        """Grow these in shape only, look for the attributes, and take everything back.

        Returns what no attribute explains; None if all is well, or if the budget ended first.
        """
        embeddings = {}
        for g in groups:
            n = resolve(g.leaf).size
            more = n if double else 2
            embeddings[g.name] = monomial(torch.arange(n + more), n, more)
        try:
            grown_hollow(self.model, self.calls, self.analysis, embeddings, self.budget)
        except TiedInCode as fault:
            return None if self.over else fault
        return None

    def failing(self, fault: TiedInCode) -> tuple[Place, set[Axis]]:
        """The operation at which code fails, and the leaves of all its axes."""
        op = self._failing(fault)
        recorded = self.analysis.recordings[fault.difference.recording].ops
        touched = {
            leaf
            for tensor in (*op.outputs, *op.tensors())
            for axis in self.analysis.context.axes(tensor)
            for leaf in map(resolve, leaves(axis))
        }
        return places_of(recorded)[recorded.index(op)], touched

    def failing_in(self, fault: TiedInCode) -> int:
        """The module whose code fails, by identity."""
        path = self._failing(fault).path
        return id(path[-1]) if path else 0

    def _failing(self, fault: TiedInCode) -> Op:
        here = fault.difference
        ops = essential(self.analysis.recordings[here.recording].ops)
        return ops[min(here.position, len(ops) - 1)]

    def alike(self, g: Group) -> Alike:
        """All that the code does with the channels of a group, to compare it with other groups."""
        return frozenset(self.places.get(g.leaf, ()))

    def by_alike(self, groups: Sequence[Group]) -> list[list[Group]]:
        """Those together that meet the same operations of the same classes."""
        found: dict[Alike, list[Group]] = defaultdict(list)
        for g in groups:
            found[self.alike(g)].append(g)
        return list(found.values())

    def meet(self, g: Group, h: Group) -> bool:
        """Whether one group has a tensor in a module that regroups the other, or in a child."""
        return not self.near(h).isdisjoint(self.modules[g.leaf])

    def near(self, h: Group) -> set[int]:
        """The modules of a group's tensors, those around these, and those that regroup it."""
        if h.name not in self._owners:
            paths = {s.name.rpartition(".")[0] for s in h.slots}
            paths |= {path.rpartition(".")[0] for path in paths}
            self._owners[h.name] = {id(self.model.get_submodule(path)) for path in paths}
        return self._owners[h.name] | self.modules.get(h.leaf, set())


def dims_of(g: Group) -> set[tuple[str, int]]:
    """The dimensions of tensors that a group is part of; those that multiply it share some."""
    return {(slot.name, slot.dim) for slot in g.slots}
