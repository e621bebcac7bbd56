"""Find the attributes that a user's forward pass keeps about a width, by what they would explain.

Predict every operation's output shape on the grown axes and record the grown model. At the first
operation that differs, try the integers of its enclosing modules that equal a size the growth
changed; keep one if the first difference moves on. When none does, the growth is refused.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import nn

from gnomon.axes import Axis, Misfit, factors, resolve, split
from gnomon.errors import Unsupported
from gnomon.groups import Analysis
from gnomon.ops.context import Context, Op
from gnomon.plan import AttributeEdit
from gnomon.surgery import Surgery, set_attribute
from gnomon.tape import Call, record

_COPIES = ("clone", "as_strided_", "contiguous", "alias", "detach", "empty_like")
_SYNONYMS = {"_unsafe_view": "view", "_reshape_alias": "view", "reshape": "view"}
_FILLS = ("fill_", "scalar_tensor", "full_like")
TRIES = 400  # recordings of the grown model before the search gives up


@dataclass(frozen=True)
class Expected:
    """What one operation must look like after growth; a slice also where it starts."""

    name: str
    shapes: tuple[tuple[int, ...], ...]
    constants: tuple[object, ...]
    start: int | None


@dataclass(frozen=True)
class Difference:
    """The first operation that is not as expected: its recording, position and description."""

    recording: int
    position: int
    message: str

    @property
    def place(self) -> tuple[int, int]:
        """For comparison: later is better."""
        return self.recording, self.position


class TiedInCode(Unsupported):
    """No attribute explains why the grown model runs otherwise than predicted."""

    def __init__(self, message: str, difference: Difference) -> None:
        super().__init__(message)
        self.difference = difference


class _Differs(Exception):
    """Ends a recording at the first operation that is not as expected."""


class Prediction:
    """The tapes of the grown model, predicted from the old ones."""

    def __init__(self, analysis: Analysis, sizes: Mapping[Axis, int]) -> None:
        self.analysis = analysis
        self._sizes = {resolve(leaf): size for leaf, size in sizes.items()}
        self.ops = [essential(r.ops) for r in analysis.recordings]
        self.tapes = [[self._expect(op) for op in ops] for ops in self.ops]

    def size(self, axis: Axis) -> int:
        """The grown size of an axis."""
        axis = resolve(axis)
        if axis not in self._sizes:
            parts = [self.size(part) for part in axis.parts]
            combine = prod if axis.kind == "product" else sum
            self._sizes[axis] = combine(parts) if axis.kind else axis.size
        return self._sizes[axis]

    def _expect(self, op: Op) -> Expected:
        t = self.analysis.context
        shapes = tuple(tuple(self.size(a) for a in axes) for axes in t.made(op))
        name = _SYNONYMS.get(op.name, op.name)
        return Expected(name, shapes, constants(op), self._start(op))

    def _start(self, op: Op) -> int | None:
        """Where a slice starts once everything before it has grown."""
        at = slice_start(op)
        if at is None or not at[1]:
            return None if at is None else at[1]
        dim, start = at
        axis = self.analysis.context.axes(op.args[0])[dim]
        try:
            return self.size(split(axis, [start, resolve(axis).size - start])[0])
        except Misfit:  # then the axis is frozen
            return start

    def difference(self, model: nn.Module, calls: Sequence[Call]) -> Difference | None:
        """Record the model as it is now and compare."""
        for i, (call, training) in enumerate(itertools.product(calls, (False, True))):
            found = self._compare(i, model, call, training)
            if found is not None:
                return found
        return None

    def _compare(self, i: int, model: nn.Module, call: Call, training: bool) -> Difference | None:
        found: list[Difference] = []
        position = itertools.count()

        def look(op: Op) -> None:
            if op.name not in _COPIES:
                at = next(position)
                wanted = self.tapes[i][at] if at < len(self.tapes[i]) else None
                problem = _problem(wanted, op)
                if problem:
                    found.append(Difference(i, at, problem))
                    raise _Differs

        fault = None
        fake = self.analysis.fake
        try:
            record(model, call, training=training, fake=fake, keep=False, on_op=look)
        except Exception as raised:  # whatever a foreign forward raises on other shapes
            fault = raised
        if found:
            return found[0]
        ran = next(position)
        if fault is not None:
            return Difference(i, ran, f"{type(fault).__name__}: {str(fault)[:160]}")
        return None if ran == len(self.tapes[i]) else Difference(i, ran, "fewer operations ran")


def slice_start(op: Op) -> tuple[int, int] | None:
    """(dimension, start counted from the front) of a slice that is not the whole."""
    if op.name != "slice":
        return None
    x, y = op.args[0], op.outputs[0]
    dim = (op.argument(1, "dim", 0) or 0) % x.dim()
    if x.shape[dim] == y.shape[dim]:
        return None
    start = op.argument(2, "start") or 0
    start = start + x.shape[dim] if start < 0 else start
    return dim, min(max(start, 0), x.shape[dim])


def essential(ops: Sequence[Op]) -> list[Op]:
    """The operations that compute: copies come and go with strides, which growth changes."""
    return [op for op in ops if op.name not in _COPIES]


def constants(op: Op) -> tuple[object, ...]:
    """The floats of an operation, and the integers of a pointwise one: widths may hide in them."""
    counts = torch.Tag.pointwise in op.func.tags or op.name in _FILLS
    leaves = pytree.tree_leaves((op.args, dict(op.kwargs)))
    numbers = [x for x in leaves if type(x) is float or (counts and type(x) is int)]
    if op.name == "lift_fresh" and op.args[0].numel() == 1 and not op.args[0].is_meta:
        numbers.append(op.args[0].item())  # torch.tensor(x.shape[1])
    return tuple(numbers)


def _problem(wanted: Expected | None, op: Op) -> str:
    if wanted is None:
        return f"{op.name} ran where the pass had ended"
    if _SYNONYMS.get(op.name, op.name) != wanted.name:
        return f"{wanted.name} expected, {op.name} ran"
    shapes = op.shapes
    if shapes != wanted.shapes:
        return f"{op.name} gave {_shown(shapes)} instead of {_shown(wanted.shapes)}"
    at = slice_start(op)
    if wanted.start is not None and (at is None or at[1] != wanted.start):
        return f"a slice starts at {at[1] if at else 0} instead of {wanted.start}"
    if constants(op) != wanted.constants:
        return f"a constant of {op.name} went from {wanted.constants} to {constants(op)}"
    return ""


def _shown(shapes: tuple[tuple[int, ...], ...]) -> str:
    return " and ".join(map(str, shapes))


def repair(
    model: nn.Module,
    calls: Sequence[Call],
    prediction: Prediction,
    surgery: Surgery,
    tries: int = TRIES,
) -> list[AttributeEdit]:
    """Change attributes until the grown model runs as predicted. Returns the changes made.

    Raises TiedInCode, naming operation and module, if no attribute explains a difference.
    """
    made: list[AttributeEdit] = []
    tried = itertools.count()
    here = prediction.difference(model, calls)
    while here is not None:
        better = None
        for edits in _candidates(model, prediction, here):
            if next(tried) > tries:
                break
            _try(model, edits)
            there = prediction.difference(model, calls)
            _take_back(model, edits)
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


def _try(model: nn.Module, edits: Sequence[AttributeEdit]) -> None:
    for edit in edits:
        held = model.get_submodule(edit.path).__dict__
        held[edit.name] = _like(held[edit.name], edit.new)


def _take_back(model: nn.Module, edits: Sequence[AttributeEdit]) -> None:
    for edit in edits:
        held = model.get_submodule(edit.path).__dict__
        held[edit.name] = _like(held[edit.name], edit.old)


def _like(held: Any, value: int | tuple[int, ...]) -> Any:
    return value if isinstance(value, int) else type(held)(value)


def _candidates(
    model: nn.Module, prediction: Prediction, here: Difference
) -> Iterator[list[AttributeEdit]]:
    """Attributes that could explain the difference, nearest module first; alone, then with all
    modules of the same class that hold the same value."""
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
            for i in range(len(parts)):
                old = new = 1
                for before, after in sizes[i:]:
                    old, new = old * before, new * after
                    found.append((old, new))
    return [pair for pair in dict.fromkeys(found) if pair[0] != pair[1]]


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
