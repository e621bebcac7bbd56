"""What every operation must look like after a growth, and the first one that does not."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor, nn

from gnomon.analysis.groups import Analysis
from gnomon.analysis.scalings import factor_of, ratio, scale_of
from gnomon.axes import Axis, Misfit, resolve, split
from gnomon.code.regrouping import REGROUPING
from gnomon.ops.context import Op
from gnomon.recording.tape import Call, Recording, record

_COPIES = ("clone", "as_strided_", "contiguous", "alias", "detach", "empty_like")
_SYNONYMS = {"_unsafe_view": "view", "_reshape_alias": "view", "reshape": "view"}
_FILLS = ("fill_", "scalar_tensor", "full_like")


@dataclass(frozen=True)
class Expected:
    """What one operation must look like after growth; a slice also where it starts."""

    name: str
    shapes: tuple[tuple[int, ...], ...]
    constants: tuple[object, ...]
    start: int | None
    scales: bool = False  # a product of activations: its number may change, and is noted


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


class _Ends(Exception):
    """Ends a recording: an operation is not as expected, or nothing more needs to be seen."""


class Prediction:
    """The tapes of the grown model, predicted from the old ones.

    short: compare the first call in eval mode alone, up to the last operation that growth changes:
    a cheap and early answer, not the last word.
    moved: per operation (its id), constants that change: old -> new.
    """

    def __init__(
        self,
        analysis: Analysis,
        sizes: Mapping[Axis, int],
        *,
        short: bool = False,
        moved: Mapping[int, Mapping[float, float]] | None = None,
    ) -> None:
        self.analysis, self.short, self._moved = analysis, short, moved or {}
        self._sizes = {resolve(leaf): size for leaf, size in sizes.items()}
        grown = {leaf for leaf, size in self._sizes.items() if leaf.size != size}
        self.grown = len(grown)
        self._links = {a: link for a, link in analysis.links.items() if a in grown}
        self._scaling = {id(op) for k in self._links.values() for chain in k.chains for op in chain}
        self._scales: dict[int, float] = {}
        recordings = analysis.recordings[:1] if short else analysis.recordings
        self.ops = [essential(r.ops) for r in recordings]
        self.tapes = [[self._expect(op) for op in ops] for ops in self.ops]
        if short:
            self.tapes = [tape[: self._end(i)] for i, tape in enumerate(self.tapes)]

    def _end(self, i: int) -> int:
        """How many operations of a tape there are up to the last one that growth changes.

        And up to the last in the code that regroups what grows: it may use its numbers again.
        """
        end, owners = 0, set[int]()
        for at, (op, wanted) in enumerate(zip(self.ops[i], self.tapes[i], strict=True)):
            if self._changes(op, wanted):
                end = at + 1
                if op.name in REGROUPING and op.path:
                    owners.add(id(op.path[-1]))
            elif op.path and id(op.path[-1]) in owners:
                end = at + 1
        return end

    def _changes(self, op: Op, wanted: Expected) -> bool:
        held = slice_start(op)
        return (
            wanted.scales
            or wanted.shapes != op.shapes
            or (held is not None and held[1] != wanted.start)
            or any(self.size(a) != a.size for x in op.tensors() for a in self._axes(x))
        )

    def _axes(self, x: Tensor) -> Iterator[Axis]:
        return map(resolve, self.analysis.context.axes(x))

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
        moved = self._moved.get(id(op), {})
        numbers = tuple(moved.get(x, x) if isinstance(x, float) else x for x in constants(op))
        return Expected(name, shapes, numbers, self._start(op), id(op) in self._scaling)

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

    def ratios(self) -> dict[Axis, set[float]]:
        """By how much the code now scales each growing product more than it did.

        As many numbers as its products disagree on, of those that were run since.
        """
        found: dict[Axis, set[float]] = {}
        for leaf, link in self._links.items():
            chains = [c for c in link.chains if all(id(op) in self._scales for op in c)]
            each = [ratio(c, [self._scales[id(op)] for op in c]) for c in chains]
            found[leaf] = {r for i, r in enumerate(each) if not any(_near(r, s) for s in each[:i])}
        return found

    def difference(self, model: nn.Module, calls: Sequence[Call]) -> Difference | None:
        """Record the model as it is now and compare."""
        for i, (call, training) in enumerate(itertools.product(calls, (False, True))):
            if self.short and i:
                break
            found = self._compare(i, model, call, training)
            if isinstance(found, Difference):
                return found
        return None

    def runs(
        self,
        model: nn.Module,
        calls: Sequence[Call],
        *,
        training: bool,
        keep: bool,
        on_op: Callable[[Op], None] | None = None,
    ) -> list[Recording] | None:
        """The passes of one mode, or None if one is not as expected.

        keep: whether they keep their operations. on_op: called after each operation.
        """
        passes: list[Recording] = []
        for i, call in enumerate(calls):
            run = self._compare(2 * i + training, model, call, training, keep=keep, on_op=on_op)
            if not isinstance(run, Recording):
                return None
            passes.append(run)
        return passes

    def _found_as_before(self, old: Op, op: Op, wanted: Expected) -> Op:
        """How many entries a mask has depends on weights, which a trial has not: as recorded.

        A router picks rows for each expert, say; where channels do not grow, only shapes count.
        """
        finds = torch.Tag.dynamic_output_shape in op.func.tags and not self.analysis.fake
        if not finds or old.func is not op.func or wanted.shapes != old.shapes:
            return op
        for new, then in zip(op.outputs, old.outputs, strict=True):
            new.set_(then.detach().clone())  # type: ignore[call-overload]
        return replace(op, shapes=old.shapes)

    def _compare(
        self,
        i: int,
        model: nn.Module,
        call: Call,
        training: bool,
        *,
        keep: bool = False,
        on_op: Callable[[Op], None] | None = None,
    ) -> Difference | Recording | None:
        if self.short and not self.tapes[i]:
            return None
        found: list[Difference] = []
        position = itertools.count()

        def look(op: Op) -> None:
            if op.name not in _COPIES:
                at = next(position)
                wanted = self.tapes[i][at] if at < len(self.tapes[i]) else None
                if self.short and wanted is not None:
                    op = self._found_as_before(self.ops[i][at], op, wanted)
                problem = _problem(wanted, op)
                if wanted is not None and wanted.scales and not problem:
                    self._scales[id(self.ops[i][at])] = scale_of(op)
                if problem:
                    found.append(Difference(i, at, problem))
                    raise _Ends
                if self.short and at + 1 == len(self.tapes[i]):
                    raise _Ends
            if on_op is not None:
                on_op(op)

        fault = run = None
        fake = self.analysis.fake
        try:
            run = record(model, call, training=training, fake=fake, keep=keep, on_op=look)
        except Exception as raised:  # whatever a foreign forward raises on other shapes
            fault = raised
        if found:
            return found[0]
        ran = next(position)
        if self.short and ran == len(self.tapes[i]):
            return None
        if run is None:
            next_one = self.tapes[i][ran].name if ran < len(self.tapes[i]) else "the end"
            came = f"{type(fault).__name__}: {str(fault)[:160]}"
            return Difference(i, ran, f"in place of {next_one} came {came}")
        return run if ran == len(self.tapes[i]) else Difference(i, ran, "fewer operations ran")


def _near(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-12 * abs(b)


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
    numbers = [x for x in op.leaves() if type(x) is float or (counts and type(x) is int)]
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
        counts = torch.Tag.dynamic_output_shape in op.func.tags
        why = ", and how many it finds depends on the data" if counts else ""
        return f"{op.name} gave {_shown(shapes)} instead of {_shown(wanted.shapes)}{why}"
    at = slice_start(op)
    if wanted.start is not None and (at is None or at[1] != wanted.start):
        return f"a slice starts at {at[1] if at else 0} instead of {wanted.start}"
    if wanted.scales and factor_of(op) is not None:
        return ""
    if constants(op) != wanted.constants:
        return f"a constant of {op.name} went from {wanted.constants} to {constants(op)}"
    return ""


def _shown(shapes: tuple[tuple[int, ...], ...]) -> str:
    return " and ".join(map(str, shapes))
