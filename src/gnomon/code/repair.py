"""Find the attributes that a user's forward pass keeps about a width, by what they would explain.

At the first operation that is not as predicted, try the integers of its enclosing modules that
equal a size the growth changed; keep one if the first difference moves on. When none does, the
growth is refused.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import nn

from gnomon.axes import factors, resolve, segments
from gnomon.code.prediction import Difference, Prediction
from gnomon.editing.surgery import Surgery, set_attribute
from gnomon.errors import Unsupported
from gnomon.ops.context import Context, Op
from gnomon.planning.edit import AttributeEdit, AttributeValue
from gnomon.planning.plan import Plan
from gnomon.recording.tape import Call

_RECORDINGS = 200  # whole ones that a search may make before it gives up
_PAIRS = 30  # of attributes that are tried together
_SETTING_UP = 50  # operations that setting up a recording is worth


class Budget:
    """How many operations of the grown model a search may still run, over all its recordings.

    pairs: how many pairs of attributes it may try together at one difference.
    """

    def __init__(self, operations: int, pairs: int = _PAIRS) -> None:
        self.left, self.pairs = operations, pairs

    def spend(self, prediction: Prediction, found: Difference | None) -> None:
        """Pay for a recording: up to the difference it found, or to the end."""
        run = [len(tape) for tape in prediction.tapes]
        if found is not None:
            run = [*run[: found.recording], found.position]
        self.left -= sum(run) + _SETTING_UP


class TiedInCode(Unsupported):
    """No attribute explains why the grown model runs otherwise than predicted."""

    def __init__(self, message: str, difference: Difference) -> None:
        super().__init__(message)
        self.difference = difference


def repair(
    model: nn.Module,
    calls: Sequence[Call],
    prediction: Prediction,
    surgery: Surgery,
    budget: Budget | None = None,
) -> list[AttributeEdit]:
    """Change attributes until the grown model runs as predicted. Returns the changes made.

    Raises TiedInCode, naming operation and module, if no attribute explains a difference.
    """
    made: list[AttributeEdit] = []
    if budget is None:
        budget = Budget(_RECORDINGS * sum(len(tape) for tape in prediction.tapes))
    here = prediction.difference(model, calls)
    budget.spend(prediction, here)

    def tried(edits: Sequence[AttributeEdit]) -> Difference | None:
        _try(model, edits)
        found = prediction.difference(model, calls)
        budget.spend(prediction, found)
        _take_back(model, edits)
        return found

    while here is not None:
        better = None
        for edits in _as_in_others(model, prediction, made, here):
            there = tried(edits)
            fine = edits if there is None else _passed(model, prediction, edits, there)
            if fine and (there is None or there.place > here.place):
                better = fine, there
        for edits in () if better else _candidates(model, prediction, here, budget.pairs, tried):
            if budget.left < 0:
                break
            there = tried(edits)
            if there is None or there.place > here.place:
                better = edits, there
                break
        if better is None:
            raise _refusal(model, prediction, here)
        for edit in better[0]:
            set_attribute(model, surgery, edit)
        made += better[0]
        here = better[1]
    return made


def confirm_scales(plan: Plan, prediction: Prediction) -> None:
    """See that the code scales products of activations as the plan has made up for.

    Raises Unsupported where it does not.
    """
    names = {g.leaf: g.name for g in prediction.analysis.groups}
    for leaf, ratios in prediction.ratios().items():
        expected = plan.against.get(names[leaf], 1.0)
        if any(abs(expected * ratio - 1) > 1e-9 for ratio in ratios):
            raise Unsupported(
                f"'{names[leaf]}' cannot grow: the code now scales its products of activations by "
                f"{', '.join(f'{r:.4g}' for r in sorted(ratios))}, not by {1 / expected:.4g}"
            )


def _try(model: nn.Module, edits: Sequence[AttributeEdit]) -> None:
    for edit in edits:
        held = model.get_submodule(edit.path).__dict__
        held[edit.name] = _like(held[edit.name], edit.new)


def _take_back(model: nn.Module, edits: Sequence[AttributeEdit]) -> None:
    for edit in edits:
        held = model.get_submodule(edit.path).__dict__
        held[edit.name] = _like(held[edit.name], edit.old)


def _like(held: Any, value: AttributeValue | None) -> Any:
    return type(held)(value) if isinstance(value, tuple) else value


def _as_in_others(
    model: nn.Module, prediction: Prediction, made: Sequence[AttributeEdit], here: Difference
) -> list[list[AttributeEdit]]:
    """What has helped in other modules of these classes, in all of them at once, for a trial.

    It may touch what did not have to change, so growth itself goes module by module.
    """
    if not prediction.short or not made:
        return []
    ops = prediction.ops[here.recording]
    path = {id(m) for m in ops[min(here.position, len(ops) - 1)].path[-4:]}
    kinds = {(type(model.get_submodule(e.path)), e.name, e.old, e.new) for e in made}
    alike = [
        (m, AttributeEdit(other, name, old, new))
        for other, m in model.named_modules()
        for kind, name, old, new in kinds
        if type(m) is kind and _plain(m.__dict__.get(name)) == old
    ]
    return [[edit for _, edit in alike]] if any(id(m) in path for m, _ in alike) else []


def _passed(
    model: nn.Module, prediction: Prediction, edits: Sequence[AttributeEdit], there: Difference
) -> list[AttributeEdit]:
    """The edits of modules that ran as they should; none if it is one of them that does not."""
    ops = prediction.ops[there.recording][: there.position + 1]
    at = {id(m) for m in ops[-1].path} if ops else set()
    ran = {id(m) for op in ops for m in op.path}
    modules = [id(model.get_submodule(edit.path)) for edit in edits]
    if any(m in at for m in modules):
        return []
    return [edit for edit, m in zip(edits, modules, strict=True) if m in ran]


def _candidates(
    model: nn.Module,
    prediction: Prediction,
    here: Difference,
    pairs: int,
    tried: Callable[[Sequence[AttributeEdit]], Difference | None],
) -> Iterator[list[AttributeEdit]]:
    """Attributes that could explain the difference, nearest module first; alone, then with all
    modules of the same class that hold the same value."""
    single = list(_single_candidates(model, prediction, here))
    if prediction.short:
        single, idle = _with_effect(model, prediction, here, single, tried)
        yield from single
        single += idle
    else:
        yield from single
    if prediction.grown < 2:
        return
    yield from itertools.islice(_together(prediction, here, single), pairs)


def _with_effect(
    model: nn.Module,
    prediction: Prediction,
    here: Difference,
    single: Sequence[list[AttributeEdit]],
    tried: Callable[[Sequence[AttributeEdit]], Difference | None],
) -> tuple[list[list[AttributeEdit]], list[list[AttributeEdit]]]:
    """What is worth a trial of its own, and what is not, for it was not read so far.

    Several modules at once cannot do more than one of them, if the others have yet to run. And if
    all numbers of the modules around together leave the difference as it is, each of them would.
    """
    ops = prediction.ops[here.recording][: here.position + 1]
    ran = {id(m) for op in ops for m in op.path}
    owner = id(ops[-1].path[-1]) if ops and ops[-1].path else 0
    useful: list[list[AttributeEdit]] = []
    around: list[list[AttributeEdit]] = []
    idle: list[list[AttributeEdit]] = []
    for edits in single:
        modules = [id(model.get_submodule(edit.path)) for edit in edits]
        if len(edits) > 1 and sum(m in ran for m in modules) < 2:
            idle.append(edits)
        else:
            (useful if owner in modules else around).append(edits)
    if len(around) > 1:
        one_each = {(edit.path, edit.name): edit for edits in reversed(around) for edit in edits}
        if tried(list(one_each.values())) == here:
            return useful, idle + around
    return useful + around, idle


def _together(
    prediction: Prediction, here: Difference, single: Sequence[list[AttributeEdit]]
) -> list[list[AttributeEdit]]:
    """Pairs of candidates: one view may name two widths that grow, and neither helps alone.

    First those that name every size that changes there, and of these the ones in one module.
    """
    ops, t = prediction.ops[here.recording], prediction.analysis.context
    op = ops[min(here.position, len(ops) - 1)]
    axes = [resolve(axis) for made in t.made(op) for axis in made]
    wanted = {(axis.size, size) for axis in axes if (size := prediction.size(axis)) != axis.size}

    def order(pair: tuple[list[AttributeEdit], list[AttributeEdit]]) -> tuple[int, bool]:
        a, b = pair[0][0], pair[1][0]
        return len(wanted - {(a.old, a.new), (b.old, b.new)}), a.path != b.path

    both = [
        (a, b)
        for a, b in itertools.combinations(single, 2)
        if len(a) == len(b) and a[0].name != b[0].name
    ]
    return [[*a, *b] for a, b in sorted(both, key=order)]


def _single_candidates(
    model: nn.Module, prediction: Prediction, here: Difference
) -> Iterator[list[AttributeEdit]]:
    ops = prediction.ops[here.recording]
    paths = {id(m): name for name, m in model.named_modules()}
    tried: set[tuple[str, str, Any]] = set()
    for position in range(min(here.position, len(ops) - 1), max(-1, here.position - 4), -1):
        op = ops[position]
        changes = _changed_sizes(prediction, op)
        lists = _changed_lists(prediction, op)
        for module in (m for m in reversed(op.path[-4:]) if id(m) in paths):
            for name, new in _explanations(module, changes, lists):
                path = paths[id(module)]
                if (path, name, new) in tried:
                    continue
                tried.add((path, name, new))
                old = _plain(module.__dict__[name])
                alike = [
                    AttributeEdit(other, name, old, new)
                    for other, m in model.named_modules()
                    if type(m) is type(module) and _plain(m.__dict__.get(name)) == old
                ]
                yield [AttributeEdit(path, name, old, new)]
                if len(alike) > 1:
                    yield alike


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else value


def _changed_sizes(prediction: Prediction, op: Op) -> list[tuple[int, int]]:
    """(old, new) of every axis of the operation, and of every run of adjacent factors."""
    t: Context = prediction.analysis.context
    found = []
    for tensor in (*op.outputs, *op.tensors()):
        for axis in t.axes(tensor):
            parts = factors(axis)
            sizes = [(resolve(p).size, prediction.size(p)) for p in parts]
            for part in parts:
                rows = segments(part)
                sums = [(resolve(s).size, prediction.size(s)) for s in rows]
                found += sums  # chunk(3) of 3 * self.width
                found += _repeated(sums)
            for i in range(len(parts)):
                old = new = 1
                for before, after in sizes[i:]:
                    old, new = old * before, new * after
                    found.append((old, new))
    return [pair for pair in dict.fromkeys(found) if pair[0] != pair[1]]


def _repeated(sums: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The size of each of several equal rows of segments: 3 * self.width, each in three parts."""
    for times in range(2, len(sums)):
        each = len(sums) // times
        if len(sums) % times == 0 and list(sums) == list(sums[:each]) * times:
            yield sum(old for old, _ in sums[:each]), sum(new for _, new in sums[:each])


def _changed_lists(prediction: Prediction, op: Op) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The sizes of a split, position by position."""
    if len(op.outputs) < 2:
        return []
    t, found = prediction.analysis.context, []
    if len({o.dim() for o in op.outputs}) != 1:
        return []
    for dim in range(op.outputs[0].dim()):
        old = tuple(o.shape[dim] for o in op.outputs)
        new = tuple(prediction.size(t.axes(o)[dim]) for o in op.outputs)
        if old != new:
            found.append((old, new))
    return found


def _explanations(
    module: nn.Module,
    changes: Sequence[tuple[int, int]],
    lists: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
) -> Iterator[tuple[str, int | tuple[int, ...]]]:
    for name, value in list(module.__dict__.items()):
        if name.startswith("_") or isinstance(value, bool):
            continue
        if isinstance(value, list | tuple) and value and all(type(v) is int for v in value):
            held = tuple(value)
            yield from ((name, new) for old, new in lists if held == old)
            for old, new in changes:
                if old in held:
                    yield name, tuple(new if v == old else v for v in held)
        elif type(value) is int:
            yield from ((name, new) for old, new in changes if value == old)


def _refusal(model: nn.Module, prediction: Prediction, here: Difference) -> TiedInCode:
    ops = prediction.ops[here.recording]
    path = ops[min(here.position, len(ops) - 1)].path if ops else ()
    paths = {id(m): name for name, m in model.named_modules()}
    where = paths.get(id(path[-1]), "") if path else ""
    return TiedInCode(
        f"the code of '{where or type(model).__name__}' ties these channels to a number that is "
        f"not kept in an attribute: {here.message}. Grow another group, or read the width from a "
        f"tensor",
        here,
    )
