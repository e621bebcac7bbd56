"""Numbers in a model's settings that describe its grown widths, found by building it again.

A number is right if what is built with it has more of the grown shapes and no wrong ones instead,
whatever it is called. All shapes must come out, and what is built must run as the grown model will
(see `gnomon.code.rebuilt`), or no number is changed.
"""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from torch import nn

from gnomon.analysis.groups import Analysis
from gnomon.axes import Form
from gnomon.code.prediction import Difference
from gnomon.code.rebuilt import Rehearsal
from gnomon.editing.settings import built, fields, say, settings_around, shapes
from gnomon.errors import Unsupported
from gnomon.planning.edit import AttributeEdit
from gnomon.planning.plan import Plan
from gnomon.recording.tape import Call

Shapes = dict[str, tuple[int, ...]]


def with_settings(model: nn.Module, plan: Plan, analysis: Analysis, calls: Sequence[Call]) -> Plan:
    """The plan with edits to the settings that the model was built from, if it still can be.

    What is built from them has to run as the grown model will. A note says so, or that no number
    makes it.
    """
    if not plan.edits or plan.modules:
        return plan
    rehearsal = Rehearsal(model, plan, analysis, calls)
    for path, name, config in settings_around(model, _place(plan)):
        module = model.get_submodule(path)
        again = built(module, config)
        if again is None or shapes(again) != shapes(module):
            continue
        goal = _Goal.of(module, config, path, plan)
        edits, problem = _true_numbers(goal, rehearsal, path, name)
        if edits is None:
            note = f"no number in '{name}' {_SILENT}"
            note += f" (some give these shapes and another function: {problem})" if problem else ""
            return replace(plan, notes=(*plan.notes, note))
        told = ", ".join(f"{edit.name} {edit.old} -> {edit.new}" for edit in edits)
        note = f"{told}: the model can be built from it again"
        return replace(plan, attributes=(*plan.attributes, *edits), notes=(*plan.notes, note))
    return plan


def _true_numbers(
    goal: _Goal, rehearsal: Rehearsal, path: str, name: str
) -> tuple[tuple[AttributeEdit, ...] | None, str]:
    """The fields that describe the grown model, and how those differ that only look so.

    Where the first found give the shapes and another function, each is left out once.
    """
    problem = ""

    def edits(found: Sequence[Number]) -> tuple[AttributeEdit, ...]:
        return tuple(AttributeEdit(path, f"{name}.{f}", old, new) for f, old, new in found)

    def difference(found: Sequence[Number]) -> Difference | None:
        return rehearsal.difference(path, _told(goal.config, found), edits(found))

    first = goal.numbers()
    for left_out in (None, *(first or ())):
        found = first if left_out is None else goal.numbers(left_out)
        if found is None:
            continue
        here = difference(found)
        for more in goal.others(found):  # a count of heads is in no shape
            if here is None:
                break
            there = difference([*found, more])
            if there is None or there.place > here.place:
                found, here = [*found, more], there
        if here is None:
            return edits(_needed(goal, found, difference)), ""
        problem = problem or here.message
    return None, problem


def _needed(
    goal: _Goal, found: Sequence[Number], difference: Callable[[Sequence[Number]], object]
) -> Sequence[Number]:
    """Without the fields that nothing depends on: what was tried together may be more than that."""
    for number in found:
        fewer = [other for other in found if other != number]
        if fewer and goal.has_shapes(fewer) and difference(fewer) is None:
            found = fewer
    return found


def _told(config: object, found: Sequence[Number]) -> object:
    """A copy of settings with these numbers. Raises Unsupported if it does not take one."""
    told = copy.deepcopy(config)
    for field, _, new in found:
        say(told, field, new)
    return told


def _place(plan: Plan) -> str:
    """Something in the innermost module that all edits lie in."""
    ways = [edit.name.split(".")[:-1] for edit in plan.edits]
    steps = zip(*ways, strict=False)
    common = itertools.takewhile(lambda names: len(set(names)) == 1, steps)
    return ".".join([*(names[0] for names in common), "*"])


_SILENT = "says these widths, so the model is built again by gn.load, which grows it, alone"
_PAIRS = 30  # of fields that are tried together: each builds the model once
Number = tuple[str, int | float | None, int | float]  # a field, what it says, what it is to say


def _parts_grown(form: Form, sizes: Mapping[str, int]) -> Iterator[tuple[int, int]]:
    """Sizes before and after of what a dimension is made of: heads, and heads of each group."""
    runs: list[tuple[Form, ...]] = [(form,)]
    if form.kind == "product":
        n = len(form.parts)
        runs = [form.parts[i:j] for i in range(n) for j in range(i + 1, n + 1)]
    for run in runs:
        old, new = prod(p.size for p in run), prod(p.grown(sizes) for p in run)
        if old != new:
            yield old, new
    for part in form.parts:
        yield from _parts_grown(part, sizes)


@dataclass(frozen=True)
class _Goal:
    """What settings are to describe.

    values: of attributes that the plan changes, such as the eps of norms, by path and name.
    steps:  old and new values that a number may have.
    even:   whether tensors of one kind, in all blocks, have one new shape.
    """

    module: nn.Module
    config: object
    wanted: Shapes
    values: Mapping[tuple[str, str], object]
    steps: frozenset[tuple[int | float, int | float]]
    even: bool

    @classmethod
    def of(cls, module: nn.Module, config: object, path: str, plan: Plan) -> _Goal:
        inner = len(path) + 1 if path else 0
        old = shapes(module)
        grown = {e.name[inner:]: plan.grown_shape(e) for e in plan.edits}
        wanted = old | grown
        steps: set[tuple[int | float, int | float]] = {(w.old, w.new) for w in plan.widths}
        steps |= {
            pair for n in grown for pair in zip(old[n], grown[n], strict=True) if pair[0] != pair[1]
        }
        numbers = [a for a in plan.attributes if isinstance(a.old, int | float)]
        steps |= {(a.old, a.new) for a in numbers if isinstance(a.new, int | float)}  # type: ignore[misc]
        steps |= {p for e in plan.edits for d in e.dims for p in _parts_grown(d.form, plan.sizes)}
        kinds: dict[tuple[str, tuple[int, ...]], set[tuple[int, ...]]] = {}
        for n, shape in old.items():
            kinds.setdefault((re.sub(r"\.\d+\.", ".*.", n), shape), set()).add(wanted[n])
        even = all(len(new) == 1 for new in kinds.values())
        values = {(a.path[inner:], a.name): a.new for a in plan.attributes}
        return cls(module, config, wanted, values, frozenset(steps), even)

    def numbers(self, left_out: Number | None = None) -> list[Number] | None:
        """Fields with which all comes out, found one by one; None if there are none."""
        config = self.config
        wrong, found = self._wrong(config), list[Number]()
        for move in self._moves():
            known = {field for field, _, _ in found}
            if not wrong or left_out in move or known & {field for field, _, _ in move}:
                continue
            try:
                tried = _told(config, move)
            except Unsupported:
                continue
            left = self._wrong(tried)
            if left is not None and wrong is not None and left < wrong:
                config, wrong = tried, left
                found += move
        return found if wrong is not None and not wrong else None

    def others(self, found: Sequence[Number]) -> Iterator[Number]:
        """Further fields that may be told, since all shapes stay as they are."""
        known = {field for field, _, _ in found}
        for number in self._candidates():
            if number[0] not in known and self.has_shapes([*found, number]):
                yield number

    def has_shapes(self, found: Sequence[Number]) -> bool:
        """Whether the settings with these numbers give all shapes."""
        try:
            return self._wrong(_told(self.config, found)) == set()
        except Unsupported:
            return False

    def _moves(self) -> Iterator[tuple[Number, ...]]:
        """What to try: fields, all together that have one value, which may have to be equal, pairs.

        Heads alone may change the width of each; with those of the keys all comes out.
        """
        single = list(self._candidates())
        yield from ((number,) for number in (*single, *self._unsaid()))
        for step in dict.fromkeys((old, new) for _, old, new in single):
            alike = tuple(number for number in single if number[1:] == step)
            if len(alike) > 1:
                yield alike
        yield from itertools.islice(itertools.combinations(single, 2), _PAIRS)

    def _wrong(self, config: object) -> set[str] | None:
        again = built(self.module, config)
        if again is None:
            return None
        theirs = shapes(again)
        if theirs.keys() != self.wanted.keys():
            return None
        modules = dict(again.named_modules())
        wrong = {n for n in theirs if theirs[n] != self.wanted[n]}
        for (path, name), value in self.values.items():
            held = vars(modules[path]).get(name) if path in modules else None
            held = tuple(held) if isinstance(held, list) else held
            if held != value:
                wrong.add(f"{path} {name}")
        return wrong

    def _candidates(self) -> Iterator[Number]:
        for field, value in fields(self.config).items():
            for old, new in sorted(self.steps):
                if type(value) is type(old) and value == old:
                    yield field, old, new

    def _unsaid(self) -> Iterator[Number]:
        """Fields that are None, so that a constructor takes the usual."""
        if self.even:
            for field, value in fields(self.config).items():
                if value is None:
                    yield from ((field, None, new) for _, new in sorted(self.steps))
