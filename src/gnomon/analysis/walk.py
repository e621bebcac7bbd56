"""One recording, walked operation by operation by those who follow the channels of one leaf.

Which operations do what, and where their arguments stand, is written here once. What becomes of a
signal, its state, is the walker's own to say: `gnomon.analysis.travel` for channels that carry
nothing new, `gnomon.analysis.turn_travel` for streams that are turned.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from torch import Tensor

from gnomon.analysis.norms import Norm
from gnomon.analysis.scalings import rounds
from gnomon.axes import Axis, leaves, resolve
from gnomon.ops import shape
from gnomon.ops.context import Context, Op
from gnomon.ops.names import (
    CONVOLUTIONS,
    COPIES,
    FACTORS,
    LINEAR_OVER_POSITIONS,
    MASKS,
    ONE_NUMBER,
    UNSET,
    ZEROS,
)

S = TypeVar("S")
Slot = tuple[str, int]  # a stored tensor's name, and one of its dimensions
Fresh = Literal["zeros", "unset", "number", "noise"]


def whole(axis: Axis, leaf: Axis) -> bool:
    """Whether an axis is nothing but this leaf."""
    return resolve(axis) is leaf


@dataclass(frozen=True, slots=True)
class Factor:
    """One side of a product: a tensor, its axes, and which of them is summed over.

    name: of the stored tensor that it is, or None for a signal.
    """

    x: Tensor
    axes: Sequence[Axis]
    axis: Axis
    name: str | None


@dataclass(frozen=True, slots=True)
class Kernel:
    """A convolution: x and its axis of channels; which axes of the weight read and write them."""

    x: Tensor
    channels: Axis
    weight: Tensor
    reads: Axis
    writes: Axis
    bias: Tensor | None
    transposed: bool
    groups: int


@dataclass
class Walk(ABC, Generic[S]):
    """Gives a state to every tensor that carries the leaf.

    norms: those over the leaf.   modules: names by id.   state: by id, of tensors met so far.
    """

    t: Context
    leaf: Axis
    norms: Sequence[Norm]
    modules: Mapping[int, str]
    state: dict[int, S] = field(default_factory=dict, init=False)

    def run(self, ops: Iterable[Op]) -> None:
        """Meet every operation that a signal of these channels goes into or comes out of."""
        for op in ops:
            carriers = [x for x in op.tensors() if self.carries(x)]
            made = [y for y in op.outputs if self.carries(y)]
            if not carriers and not made:
                continue
            if all(self.t.stored(x) is not None for x in (*carriers, *op.outputs)):
                continue  # a parameter, seen from another side
            self.meet(op, carriers, made)

    def after(self, op: Op, carriers: Sequence[Tensor], made: Sequence[Tensor]) -> S:
        """The state of what an operation makes of its arguments."""
        name = op.name.rstrip("_")
        if name in _HANDLERS:
            state: S = _HANDLERS[name](self, op, carriers)
            return state
        if not carriers or not made:
            return self.lost(op, carriers, "mixes the channels")
        passes = (op.name in shape.TABLE and name not in _REGROUPS) or name in _PASSES
        return self.joined(op, carriers) if passes else self.bent(op, carriers)

    # --- what it carries ---------------------------------------------------------------------

    def has(self, axis: Axis) -> bool:
        """Whether the channels are (a part of) an axis."""
        return any(part is self.leaf for part in leaves(axis))

    def carries(self, x: object) -> bool:
        """Whether some axis of a tensor holds the channels."""
        return isinstance(x, Tensor) and any(
            part is self.leaf for axis in self.t.axes(x) for part in leaves(axis)
        )

    def slots(self, name: str, axis: Axis) -> set[Slot]:
        """Where a stored tensor has the channels: as this axis, or else in any."""
        own = self.t.dims[name]
        dims = [d for d, other in enumerate(own) if self.has(other)]
        return {(name, d) for d in [d for d in dims if own[d] is axis] or dims}

    def where(self, op: Op) -> str:
        """The name of the module that an operation ran in."""
        return self.modules.get(id(op.path[-1]), "") if op.path else ""

    # --- what a walker says ------------------------------------------------------------------

    @abstractmethod
    def meet(self, op: Op, carriers: Sequence[Tensor], made: Sequence[Tensor]) -> None:
        """Set the states of outputs; carriers and made are the tensors that hold the channels."""

    @abstractmethod
    def joined(self, op: Op, signals: Sequence[Tensor]) -> S:
        """Of several signals side by side, or added; or one, moved or summed over positions."""

    @abstractmethod
    def summed(self, op: Op, signals: Sequence[Tensor], *, constant: bool) -> S:
        """As `joined`; constant: with one number for all channels added."""

    @abstractmethod
    def shifted(self, op: Op, state: S, by: Tensor | None) -> S:
        """A state, when a tensor is added to it, or (None) one number for all channels."""

    @abstractmethod
    def scaled(self, op: Op, carriers: Sequence[Tensor]) -> S:
        """A product, entry by entry; or a division by what does not carry the channels."""

    @abstractmethod
    def filled(self, op: Op, mask: Tensor, parts: Sequence[Any], carriers: Sequence[Tensor]) -> S:
        """One of two parts (tensors or numbers) at each place."""

    @abstractmethod
    def multiplied(self, op: Op, left: Factor, right: Factor) -> S:
        """A product of matrices."""

    @abstractmethod
    def convolved(self, op: Op, kernel: Kernel, carriers: Sequence[Tensor]) -> S:
        """A convolution."""

    @abstractmethod
    def looked_up(self, op: Op, table: Tensor, carriers: Sequence[Tensor]) -> S:
        """The columns of an embedding."""

    @abstractmethod
    def put(self, op: Op, source: object, kept: Sequence[Tensor]) -> S:
        """What is written over another tensor, and what of it is kept."""

    @abstractmethod
    def fresh(self, op: Op, kind: Fresh) -> S:
        """What is made without looking at numbers: zeros, nothing yet, one number, a mask."""

    @abstractmethod
    def bent(self, op: Op, carriers: Sequence[Tensor]) -> S:
        """An operation that is none of these, as an activation."""

    @abstractmethod
    def lost(self, op: Op, carriers: Sequence[Tensor], what: str) -> S:
        """Nothing can be said of the channels behind this."""

    # --- where the arguments stand -----------------------------------------------------------

    def _multiplies(self, op: Op, carriers: Sequence[Tensor]) -> S:
        first = _FACTORS[op.name.rstrip("_")]
        left, right = op.args[first : first + 2]
        a, b = self.t.axes(left), self.t.axes(right)
        state = self.multiplied(
            op,
            Factor(left, a, a[-1], self.t.stored(left)),
            Factor(right, b, b[-2] if len(b) > 1 else b[-1], self.t.stored(right)),
        )
        if first == 0 or not any(map(self.carries, op.outputs)):
            return state
        return self.shifted(op, state, op.args[0] if self.carries(op.args[0]) else None)

    def _convolves(self, op: Op, carriers: Sequence[Tensor]) -> S:
        x, weight, bias = op.args[:3]
        transposed, groups = op.args[6], op.args[8]
        own = self.t.axes(weight)
        reads, writes = (own[0], own[1]) if transposed else (own[1], own[0])
        channels = self.t.axes(x)[1 - weight.dim()]
        kernel = Kernel(x, channels, weight, reads, writes, bias, transposed, groups)
        return self.convolved(op, kernel, carriers)

    def _looks_up(self, op: Op, carriers: Sequence[Tensor]) -> S:
        return self.looked_up(op, op.args[0], carriers)

    def _adds(self, op: Op, carriers: Sequence[Tensor]) -> S:
        constant = not all(self.carries(x) for x in op.args[:2])
        return self.summed(op, carriers, constant=constant)

    def _scales(self, op: Op, carriers: Sequence[Tensor]) -> S:
        divides = op.name.startswith("div") and self.carries(op.args[1])
        if divides or rounds(op):
            return self.lost(op, carriers, "divides by channels")
        return self.scaled(op, carriers)

    def _fills(self, op: Op, carriers: Sequence[Tensor]) -> S:
        x, mask, number = op.args[:3]
        return self.filled(op, mask, (x, number), carriers)

    def _chooses(self, op: Op, carriers: Sequence[Tensor]) -> S:
        mask, *parts = op.args[:3]
        return self.filled(op, mask, parts, carriers)

    def _pads(self, op: Op, carriers: Sequence[Tensor]) -> S:
        state = self.joined(op, carriers)
        return self.shifted(op, state, None) if op.argument(2, "value", 0) else state

    def _is_copied(self, op: Op, carriers: Sequence[Tensor]) -> S:
        return self.put(op, op.args[1], ())

    def _is_put(self, op: Op, carriers: Sequence[Tensor]) -> S:
        return self.put(op, op.args[2], (op.args[0],))

    def _expands(self, op: Op, carriers: Sequence[Tensor]) -> S:
        return self.joined(op, carriers) if carriers else self.fresh(op, "number")


_Handler = Callable[[Walk[Any], Op, Sequence[Tensor]], Any]


def _makes(kind: Fresh) -> _Handler:
    return lambda walk, op, carriers: walk.fresh(op, kind)


_FACTORS = {**FACTORS, "_grouped_mm": 0}
_HANDLERS: Mapping[str, _Handler] = (
    dict.fromkeys(_FACTORS, Walk._multiplies)
    | dict.fromkeys(CONVOLUTIONS, Walk._convolves)
    | dict.fromkeys(("add", "sub", "rsub"), Walk._adds)
    | dict.fromkeys(ZEROS, _makes("zeros"))
    | dict.fromkeys(UNSET, _makes("unset"))
    | dict.fromkeys(ONE_NUMBER, _makes("number"))
    | dict.fromkeys(MASKS, _makes("noise"))
    | dict.fromkeys(("mul", "div"), Walk._scales)
    | {"masked_fill": Walk._fills, "where": Walk._chooses, "constant_pad_nd": Walk._pads}
    | {"copy": Walk._is_copied, "index_put": Walk._is_put}
    | {"expand": Walk._expands, "embedding": Walk._looks_up}
)
# Of the operations on shapes, those that pair channels with other channels.
_REGROUPS = ("glu", "channel_shuffle", "native_channel_shuffle")
_PASSES = frozenset((*COPIES, *LINEAR_OVER_POSITIONS, *"dropout native_dropout neg".split()))
