"""How a turned stream travels over the tape: whether it is still T times what it was, or not.

    turned   x' = T x; behind the gain of a norm that its readers take over, x' = T (x / gain)
    same     one number for all channels, of which T makes the same number again
    zero     nothing, which is all of these at once
    noise    a dropout mask, which is set to its mean for every proof
    inside   in the middle of a norm, where nothing else looks

An operation that is not named here, or that tells channels apart, is refused.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from gnomon.analysis.norms import Gain, Norm
from gnomon.analysis.travel import LINEAR_OVER_POSITIONS, SAME_NUMBERS, whole
from gnomon.axes import Axis, Form, form, leaves
from gnomon.errors import CannotPreserve
from gnomon.ops import shape
from gnomon.ops.context import Context, Op

Slot = tuple[str, int]


@dataclass(frozen=True)
class State:
    """What a signal is, once the stream is turned."""

    kind: Literal["turned", "same", "zero", "noise", "inside"]
    gain: Gain | None = None


TURNED, SAME, ZERO = State("turned"), State("same"), State("zero")
NOISE, INSIDE = State("noise"), State("inside")


class NotBehind(CannotPreserve):
    """Something else than a reader comes behind a gain, so that the gain has to stay."""

    def __init__(self, gain: Gain, reason: str) -> None:
        super().__init__(reason)
        self.gain = gain


@dataclass
class Seen:
    """What the tape says of one leaf that is turned.

    reads:  per slot, behind which gains it is read; None for no gain.
    writes: slots that make the channels.
    biases: what norms add behind a gain: per slot that gain.
    gains:  those that the readers take over; kept: those that stay.
    random: random operations on the stream, by module.
    wholes: the gains of norms over more than the channels alone, and what these norms average.
    """

    reads: dict[Slot, set[Gain | None]] = field(default_factory=lambda: defaultdict(set))
    writes: set[Slot] = field(default_factory=set)
    biases: dict[Slot, set[Gain]] = field(default_factory=lambda: defaultdict(set))
    gains: set[Gain] = field(default_factory=set)
    kept: set[Gain] = field(default_factory=set)
    random: dict[str, None] = field(default_factory=dict)
    wholes: dict[str, Form] = field(default_factory=dict)

    def behind(self) -> Iterator[tuple[Slot, set[Gain | None]]]:
        """Per slot that is read, or added by a norm, behind which gains."""
        yield from self.reads.items()
        yield from ((slot, set[Gain | None](gains)) for slot, gains in self.biases.items())


@dataclass
class Walk:
    """One recording, operation by operation. Raises CannotPreserve where the turn would show.

    kept: the gains that stay, because something else than readers comes behind them.
    """

    t: Context
    leaf: Axis
    norms: Sequence[Norm]
    kept: frozenset[str]
    seen: Seen
    modules: Mapping[int, str]
    _state: dict[int, State] = field(default_factory=dict)

    def run(self, ops: Iterable[Op]) -> None:
        """Give every tensor that carries the leaf a state."""
        parts = {id(op) for norm in self.norms for op in norm.ops}
        ends = {norm.out[0]: norm for norm in self.norms if norm.out is not None}
        for op in ops:
            carriers = [x for x in op.tensors() if self.carries(x)]
            made = [y for y in op.outputs if self.carries(y)]
            if not carriers and not made:
                continue
            norm = next((ends[id(y)] for y in made if id(y) in ends), None)
            if norm is not None and id(op) in parts:
                self._pass_norm(norm, op)
                continue
            stored = [self.t.stored(x) is not None for x in carriers]
            if all(stored) and all(self.t.stored(y) is not None for y in op.outputs):
                continue  # a parameter, seen from another side
            if not all(stored) and any(self.t.stored(y) is not None for y in op.outputs):
                self.refuse(op, carriers, "keeps a signal in a buffer")
            state = INSIDE if id(op) in parts else self._after(op, carriers)
            for y in made:
                if state.gain is not None and not self._is_whole(state.gain, self.t.axes(y)):
                    self.refuse(op, [state], "takes apart what a norm averages together")
                self._state[id(y)] = state

    def carries(self, x: Tensor) -> bool:
        """Whether some axis of a tensor holds the channels."""
        return any(self._has(axis) for axis in self.t.axes(x))

    def _has(self, axis: Axis) -> bool:
        return any(part is self.leaf for part in leaves(axis))

    def refuse(self, op: Op, states: Iterable[State | Tensor], what: str) -> State:
        """Raise: this operation would see the turn, or what comes behind a gain."""
        reason = f"{op.name} in '{self._where(op)}' {what}"
        for x in states:
            state = self._state.get(id(x)) if isinstance(x, Tensor) else x
            if state is not None and state.gain is not None:
                raise NotBehind(state.gain, reason)
        raise CannotPreserve(f"{reason}, so it would see that they are turned; {OTHER}")

    def _where(self, op: Op) -> str:
        return self.modules.get(id(op.path[-1]), "") if op.path else ""

    def state(self, op: Op, x: Tensor) -> State:
        """Of a signal, or of a parameter that enters the stream as it is."""
        name = self.t.stored(x)
        if name is not None:
            dims = enumerate(self.t.dims[name])
            self.seen.writes |= {(name, dim) for dim, axis in dims if self._has(axis)}
            return TURNED
        found = self._state.get(id(x))
        return found or self.refuse(op, (), "uses channels that are computed from parameters")

    def _after(self, op: Op, carriers: Sequence[Tensor]) -> State:
        name = op.name.rstrip("_") if op.name != "_prelu_kernel" else op.name
        if name in _HANDLERS:
            return _HANDLERS[name](self, op, carriers)
        if not carriers or not any(self.carries(y) for y in op.outputs):
            return self.refuse(op, carriers, "mixes the channels")
        if (op.name in shape.TABLE and name not in _REGROUPING) or name in SAME_NUMBERS:
            if "dropout" in name:
                self.seen.random[self._where(op)] = None
            return self.joined(op, carriers)
        if name in LINEAR_OVER_POSITIONS:
            return self.joined(op, carriers)
        return self.refuse(op, carriers, "tells channels apart")

    def joined(self, op: Op, carriers: Iterable[Tensor], *more: State) -> State:
        """Of several signals side by side, or added."""
        states = {*(self.state(op, x) for x in carriers), *more}
        if len(states) > 1:
            states -= {ZERO}
        if states == {SAME, TURNED}:
            return TURNED
        if len(states) != 1:
            return self.refuse(op, states, "adds or joins signals of which some are scaled by gain")
        return states.pop()

    def _pass_norm(self, norm: Norm, op: Op) -> None:
        before = self._state.get(norm.x[0])
        if before not in (TURNED, ZERO):
            self.refuse(op, [before or INSIDE], "averages what no longer is a plain turn")
        after, gain = TURNED, norm.gain
        if gain is not None and any(self._has(axis) for axis in self.t.dims[gain.name]):
            if gain.name in self.kept:
                self.seen.kept.add(gain)
            else:
                self.seen.gains.add(gain)
                after = State("turned", gain)
                if not whole(norm.axes[0], self.leaf):
                    self.seen.wholes[gain.name] = form(norm.axes[0], {self.leaf: "stream"})
        if norm.bias is not None:
            self._add_bias(op, norm.bias, after)
        for y in op.outputs:
            self._state[id(y)] = after

    def _is_whole(self, gain: Gain, axes: Iterable[Axis]) -> bool:
        """Whether one of these axes is all that the norm of a gain averages."""
        wanted = self.seen.wholes.get(gain.name)
        return wanted is None or any(form(axis, {self.leaf: "stream"}) == wanted for axis in axes)

    def _add_bias(self, op: Op, name: str, after: State) -> None:
        slots = {(name, dim) for dim, a in enumerate(self.t.dims[name]) if self._has(a)}
        if not slots and after.gain is not None:
            self.refuse(op, [after], "adds one number to all channels")
        if after.gain is None:
            self.seen.writes |= slots
            return
        for slot in slots:
            self.seen.biases[slot].add(after.gain)

    # --- products ----------------------------------------------------------------------------

    def multiplies(self, op: Op, carriers: Sequence[Tensor]) -> State:
        """mm, bmm, mv, dot."""
        return self._product(op, op.args[0], op.args[1])

    def multiplies_and_adds(self, op: Op, carriers: Sequence[Tensor]) -> State:
        """addmm, baddbmm."""
        made, addend = self._product(op, op.args[1], op.args[2]), op.args[0]
        if not any(self.carries(y) for y in op.outputs):
            return made
        if self.carries(addend):
            return self.joined(op, [addend], made)
        return self.joined(op, (), made, SAME)

    def _product(self, op: Op, left: Tensor, right: Tensor) -> State:
        """A weight that reads the channels, one that writes them, or a sum over positions."""
        a, b = self.t.axes(left), self.t.axes(right)
        inner = a[-1], b[-2] if len(b) > 1 else b[-1]
        weights = [x for x in (left, right) if self.t.stored(x) is not None]
        signals = [x for x in (left, right) if self.t.stored(x) is None]
        if any(self._has(axis) for axis in inner):
            if len(weights) != 1:
                return self.refuse(op, (left, right), "multiplies channels with channels")
            weight, axis = weights[0], inner[0] if weights[0] is left else inner[1]
            outer = [y for y in self.t.axes(signals[0]) if y is not inner[signals[0] is right]]
            if any(self._has(y) for y in outer):
                return self.refuse(op, signals, "multiplies channels with channels")
            self._note(op, weight, axis, signals[0])
            others = [y for y in self.t.axes(weight) if y is not axis and self._has(y)]
            return self._written(weight, others) if others else ZERO
        carrying = [x for x in (left, right) if self.carries(x)]
        if len(carrying) != 1 or len(weights) == 2:
            return self.refuse(op, carrying, "multiplies channels with channels")
        if not weights or carrying[0] is not weights[0]:
            return self.state(op, carrying[0])  # over positions
        own = [y for y in self.t.axes(weights[0]) if self._has(y)]
        batch = self.t.axes(weights[0])[:-2]
        if any(self._has(y) for y in batch):
            return self.refuse(op, (), "has weights of their own for each of the channels")
        return self._written(weights[0], own)

    def _written(self, weight: Tensor, axes: Iterable[Axis]) -> State:
        for axis in axes:
            self.seen.writes |= self._slots(weight, axis)
        return TURNED

    def _note(self, op: Op, weight: Tensor, axis: Axis, signal: Tensor) -> None:
        state = self.state(op, signal)
        if state.kind in ("noise", "inside"):
            self.refuse(op, (), "reads what no longer is a plain turn")
        for name, dim in self._slots(weight, axis):
            if state.gain and not self._is_whole(state.gain, [self.t.dims[name][dim]]):
                self.refuse(op, [state], "reads a part of what a norm averages together")
            self.seen.reads[name, dim].add(state.gain)

    def _slots(self, weight: Tensor, axis: Axis) -> set[Slot]:
        name = self.t.stored(weight)
        assert name is not None
        own = self.t.dims[name]
        dims = [d for d, other in enumerate(own) if self._has(other)]
        return {(name, d) for d in [d for d in dims if own[d] is axis] or dims}

    def convolves(self, op: Op, carriers: Sequence[Tensor]) -> State:
        """Channels are read or written by all; a grouped kernel tells them apart."""
        x, weight, bias = op.args[:3]
        transposed, groups = op.args[6], op.args[8]
        axes, own = self.t.axes(x), self.t.axes(weight)
        reads, writes = (0, 1) if transposed else (1, 0)
        channels = axes[1 - weight.dim()]
        positions = [axis for axis in (*axes, *own[2:]) if axis is not channels]
        if groups != 1 or self.t.stored(weight) is None or any(map(self._has, positions)):
            return self.refuse(op, carriers, "does not treat all channels alike")
        if self._has(channels):
            self._note(op, weight, own[reads], x)
        if not self._has(own[writes]):
            return ZERO
        made = self._written(weight, [own[writes]])
        return made if bias is None else self.joined(op, [bias], made)

    def looks_up(self, op: Op, carriers: Sequence[Tensor]) -> State:
        """embedding: the columns of a table."""
        table = op.args[0]
        if self.t.stored(table) is None or len(carriers) != 1:
            return self.refuse(op, carriers, "looks up what is no parameter")
        return self.state(op, table)

    # --- sums and factors --------------------------------------------------------------------

    def adds(self, op: Op, carriers: Sequence[Tensor]) -> State:
        """add, sub: what is the same for all channels stays so."""
        plain = any(not (isinstance(x, Tensor) and self.carries(x)) for x in op.args[:2])
        return self.joined(op, carriers, *([SAME] if plain else []))

    def scales(self, op: Op, carriers: Sequence[Tensor]) -> State:
        """mul, div: by what is the same for all channels."""
        if op.name.startswith("div"):
            over = isinstance(op.args[1], Tensor) and self.carries(op.args[1])
            if over or op.kwargs.get("rounding_mode") is not None:
                return self.refuse(op, carriers, "divides by channels")
        states = [self.state(op, x) for x in carriers]
        signals = [s for s in states if s not in (NOISE, SAME)]
        if not signals:
            return NOISE if NOISE in states else SAME
        if NOISE in states:
            self.seen.random[self._where(op)] = None
        if len(signals) > 1:
            return self.refuse(op, signals, "multiplies channels one by one")
        return signals[0]

    def fills(self, op: Op, carriers: Sequence[Tensor]) -> State:
        """masked_fill, where: all channels get the same number at the same places."""
        mask, *parts = (op.args[1], op.args[0], op.args[2])
        if op.name.startswith("where"):
            mask, *parts = op.args[:3]
        if self.carries(mask) and self.state(op, mask) != SAME:
            return self.refuse(op, carriers, "chooses channel by channel")
        numbers = [x for x in parts if not (isinstance(x, Tensor) and self.carries(x))]
        more = [SAME if isinstance(x, Tensor) or x != 0 else ZERO for x in numbers]
        signals = [x for x in parts if isinstance(x, Tensor) and self.carries(x)]
        return self.joined(op, signals, *more)

    def pads(self, op: Op, carriers: Sequence[Tensor]) -> State:
        """constant_pad_nd: with the same number for all channels."""
        return self.joined(op, carriers, SAME if op.argument(2, "value", 0) else ZERO)

    def keeps(self, op: Op, carriers: Sequence[Tensor]) -> State:
        """neg."""
        return self.joined(op, carriers)

    def starts(self, op: Op, carriers: Sequence[Tensor]) -> State:
        """zeros: nothing, and what is yet to be written."""
        return ZERO

    def expands(self, op: Op, carriers: Sequence[Tensor]) -> State:
        """expand: the same for all channels, or more positions of the same channels."""
        return self.joined(op, carriers) if carriers else SAME

    def fills_all(self, op: Op, carriers: Sequence[Tensor]) -> State:
        """full, ones_like: one number."""
        return SAME

    def drops(self, op: Op, carriers: Sequence[Tensor]) -> State:
        """bernoulli_: how a dropout mask is made."""
        return NOISE

    def is_put(self, op: Op, carriers: Sequence[Tensor]) -> State:
        """copy, index_put: what stays and what is put there, perhaps in a part of a tensor."""
        source = op.args[2] if op.name.startswith("index_put") else op.args[1]
        whole = [op.args[0]] if op.name.startswith("index_put") else []
        if not isinstance(source, Tensor) or not self.carries(source):
            return self.joined(op, whole, SAME)
        state = self.joined(op, [*whole, source])
        return state if state.gain is None else self.refuse(op, [state], "writes on a part")


_Handler = Callable[[Walk, Op, Sequence[Tensor]], State]

_NOTHING = ("zeros", "zeros_like", "new_zeros", "empty_like", "new_empty")
_ONE_NUMBER = ("full", "full_like", "new_full", "ones", "ones_like", "new_ones")
_HANDLERS: Mapping[str, _Handler] = (
    dict.fromkeys(("mm", "bmm", "mv", "dot", "_grouped_mm"), Walk.multiplies)
    | dict.fromkeys(("addmm", "baddbmm"), Walk.multiplies_and_adds)
    | dict.fromkeys(("convolution", "convolution_overrideable"), Walk.convolves)
    | dict.fromkeys(("add", "sub", "rsub"), Walk.adds)
    | dict.fromkeys(("mul", "div"), Walk.scales)
    | dict.fromkeys(("masked_fill", "where"), Walk.fills)
    | dict.fromkeys(_NOTHING, Walk.starts)
    | dict.fromkeys(_ONE_NUMBER, Walk.fills_all)
    | dict.fromkeys(("copy", "index_put"), Walk.is_put)
    | {"bernoulli": Walk.drops, "expand": Walk.expands, "neg": Walk.keeps}
    | {"constant_pad_nd": Walk.pads, "embedding": Walk.looks_up}
)
_REGROUPING = ("glu", "channel_shuffle", "native_channel_shuffle")

OTHER = (
    "NetMorph(zero='writers') may add channels that carry nothing new, Net2Net() copies all "
    "channels equally often (by=2, 3, ...)"
)
