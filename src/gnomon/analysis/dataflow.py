"""Which operation made a value and which ones use it, in-place operations told apart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from torch import Tensor

from gnomon.ops.context import Op
from gnomon.ops.names import COPIES

Value = tuple[int, int]  # a tensor's id, and how often it was overwritten before


class Dataflow:
    """The values of one recording. (A write through a view is not seen: proofs are.)"""

    def __init__(self, ops: Iterable[Op]) -> None:
        self.maker: dict[Value, Op] = {}
        self._users: dict[Value, list[Op]] = defaultdict(list)
        self._given: dict[int, dict[int, Value]] = {}
        self._version: dict[int, int] = {}
        for op in ops:
            given = {id(x): self._now(x) for x in op.tensors()}
            self._given[id(op)] = given
            for value in given.values():
                self._users[value].append(op)
            for y in op.outputs:
                if id(y) in given:
                    self._version[id(y)] = given[id(y)][1] + 1
                self.maker[self._now(y)] = op

    def _now(self, x: Tensor) -> Value:
        return id(x), self._version.get(id(x), 0)

    def given(self, op: Op, x: Tensor) -> Value:
        """The value that an operation got as this tensor."""
        return self._given[id(op)][id(x)]

    def made(self, op: Op, number: int = 0) -> Value:
        """An output of an operation."""
        y = op.outputs[number]
        given = self._given[id(op)].get(id(y))
        return (id(y), 0 if given is None else given[1] + 1)

    def root(self, value: Value, through: Sequence[str] = COPIES) -> Value:
        """The value of which this one is a cast or a copy."""
        op = self.maker.get(value)
        while op is not None and op.name in through:
            value = self.given(op, op.args[0])
            op = self.maker.get(value)
        return value

    def source(self, op: Op, x: Tensor) -> Value:
        """The root of an argument."""
        return self.root(self.given(op, x))

    def users(self, value: Value) -> Iterator[Op]:
        """The operations that compute with a value, or with a cast or a copy of it."""
        for op in self._users.get(value, ()):
            if op.name in COPIES:
                yield from self.users(self.made(op))
            else:
                yield op

    def only_user(self, value: Value) -> Op | None:
        """The one operation that computes with a value, or None."""
        found = {id(op): op for op in self.users(value)}
        return next(iter(found.values())) if len(found) == 1 else None
