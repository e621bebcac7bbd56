"""What the tapes of a model say: the op rules run over them, once it is asked for."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property

import torch
from torch import Tensor, nn

from gnomon import ops
from gnomon.analysis.copies import follow_originals
from gnomon.analysis.links import Link, links
from gnomon.analysis.norms import Norm, find_norms
from gnomon.axes import Axis
from gnomon.errors import Stale
from gnomon.ops.context import Context, Op, OpRule, Table
from gnomon.ops.pointwise import acts_per_entry, is_pointwise
from gnomon.recording.kept import all_kept
from gnomon.recording.tape import Recording, owned_tensors


class Reading:
    """The axes on the tapes of a model, and what its operations demand of them.

    Each part is read when it is first asked for: a growth that only puts modules in needs few.
    Raises Stale if the model's tensors are no longer those that were recorded, or have other
    shapes, and something was not read before.
    """

    def __init__(self, model: nn.Module, recordings: list[Recording], extra: Table) -> None:
        self.model, self.recordings, self._extra = model, recordings, extra
        self.owned = owned_tensors(model)
        self._shapes = _shapes(self.owned)
        self.seconds = 0.0
        self._depth = 0

    @contextlib.contextmanager
    def now(self) -> Iterator[None]:
        """Read something inside, and count the seconds; what that reads in turn counts once.

        Raises Stale if this model is no longer the one that was recorded.
        """
        start = time.perf_counter()
        if not self._depth and _shapes(owned_tensors(self.model)) != self._shapes:
            raise Stale("the model has changed since it was analysed: ask for a new analysis")
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                self.seconds += time.perf_counter() - start

    @cached_property
    def context(self) -> Context:
        """The axes of every tensor, and what the op rules said about them."""
        with self.now():
            context = interpret(self.model, self.owned, self.recordings, self._extra)
            follow_originals(self.model, self.owned, context)
        return context

    @cached_property
    def at_first(self) -> Context:
        """As `context`, of the first recording alone: enough to say where channels stand in it."""
        if "context" in self.__dict__:
            return self.context
        with self.now():
            return interpret(self.model, self.owned, self.recordings[:1], self._extra)

    @cached_property
    def unreached(self) -> tuple[str, ...]:
        """The names of parameters that no recorded operation uses."""
        used = self.context.used
        return tuple(n for n, p in self.owned.items() if n not in used and p.is_floating_point())

    @cached_property
    def links(self) -> Mapping[Axis, Link]:
        """Axes that are summed over in products of activations."""
        context = self.context
        with self.now():
            return links(context, self.tapes)

    @cached_property
    def norms(self) -> tuple[tuple[Norm, ...], ...]:
        """The norms over channels, per recording."""
        if not any(event.kind == "uniform" for event in self.context.events):
            return ((),) * len(self.recordings)
        with self.now():
            return find_norms(self.model, self.context, self.recordings)

    @property
    def tapes(self) -> list[list[Op]]:
        """The operations of each recording."""
        return [recording.ops for recording in self.recordings]


def _shapes(owned: Mapping[str, Tensor]) -> list[tuple[int, tuple[int, ...]]]:
    return [(id(t), t.shape) for t in owned.values()]


def interpret(
    model: nn.Module, owned: Mapping[str, Tensor], recordings: Iterable[Recording], extra: Table
) -> Context:
    """Run the op rules over the tapes; all recordings share the parameters' axes."""
    modules = {id(m): name for name, m in model.named_modules()}
    t = Context(owned, modules, all_kept(model))
    for recording in recordings:
        t.op = None
        for x in recording.inputs:
            for axis in t.axes(x):
                t.fix(axis, "it is the model's own input")
        for op in recording.ops:
            t.run(op, rule_for(op, extra))
        t.op = None
        for y in recording.outputs:
            for axis in t.axes(y):
                t.mixed(axis, "it is the model's own output")
    return t


def rule_for(op: Op, extra: Table) -> OpRule | None:
    """The user's rule, the table's, the pointwise one by PyTorch's tag, or none."""
    own = extra.get(op.func._schema.name) if extra else None
    return own or _rule_of(op.func)


@functools.cache
def _rule_of(func: torch._ops.OpOverload) -> OpRule | None:
    namespace, _, name = func._schema.name.partition("::")
    found = ops.TABLE.get(name) if namespace == "aten" else None
    return found or (acts_per_entry if is_pointwise(func) else None)
