"""How a turned stream travels over the tape: whether it is still T times what it was, or not.

An operation that the walk does not name, or that tells channels apart, is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gnomon.analysis.norms import Gain, Norm
from gnomon.analysis.turn_states import (
    INSIDE,
    NOISE,
    OTHER,
    SAME,
    TURNED,
    ZERO,
    NotBehind,
    Seen,
    State,
)
from gnomon.analysis.walk import Factor, Fresh, Kernel, Walk, whole
from gnomon.axes import Axis, form
from gnomon.errors import CannotPreserve
from gnomon.ops.context import Op


@dataclass
class TurnWalk(Walk[State]):
    """What is not known to treat all channels alike is refused.

    kept: the gains that stay, because something else than readers comes behind them.
    run raises CannotPreserve where the turn would show, NotBehind where one more gain has to stay.
    """

    kept: frozenset[str]
    seen: Seen

    def __post_init__(self) -> None:
        self._parts = {id(op) for norm in self.norms for op in norm.ops}
        self._ends = {norm.out[0]: norm for norm in self.norms if norm.out is not None}

    def meet(self, op: Op, carriers: Sequence[Tensor], made: Sequence[Tensor]) -> None:
        """What is inside of a norm is its own; but that no part of what it averages goes astray."""
        part = id(op) in self._parts
        norm = next((self._ends[id(y)] for y in made if id(y) in self._ends), None)
        if part and norm is not None:
            self._pass_norm(norm, op, made)
            return
        signals = any(self.t.stored(x) is None for x in carriers)
        if signals and any(self.t.stored(y) is not None for y in op.outputs):
            self.lost(op, carriers, "keeps a signal in a buffer")
        state = INSIDE if part else self.after(op, carriers, made)
        if "dropout" in op.name and not part:
            self.seen.random[self.where(op)] = None
        for y in made:
            if state.gain is not None and not self._is_whole(state.gain, self.t.axes(y)):
                self._refuse(op, [state], "takes apart what a norm averages together")
            self.state[id(y)] = state

    def lost(self, op: Op, carriers: Sequence[Tensor], what: str) -> State:
        """Raises: this operation would see the turn, or what comes behind a gain."""
        return self._refuse(op, [s for x in carriers if (s := self.state.get(id(x)))], what)

    def bent(self, op: Op, carriers: Sequence[Tensor]) -> State:
        """Raises: activations do."""
        return self.lost(op, carriers, "tells channels apart")

    def _refuse(self, op: Op, states: Iterable[State], what: str) -> State:
        reason = f"{op.name} in '{self.where(op)}' {what}"
        for state in states:
            if state.gain is not None:
                raise NotBehind(state.gain, reason)
        raise CannotPreserve(f"{reason}, so it would see that they are turned; {OTHER}")

    def _state(self, op: Op, x: Tensor) -> State:
        """Of a signal, or of a parameter that enters the stream as it is."""
        name = self.t.stored(x)
        if name is not None:
            dims = enumerate(self.t.dims[name])
            self.seen.writes |= {(name, dim) for dim, axis in dims if self.has(axis)}
            return TURNED
        found = self.state.get(id(x))
        return found or self._refuse(op, (), "uses channels that are computed from parameters")

    def _pass_norm(self, norm: Norm, op: Op, made: Iterable[Tensor]) -> None:
        before = self.state.get(norm.x[0])
        if before not in (TURNED, ZERO):
            self._refuse(op, [before or INSIDE], "averages what no longer is a plain turn")
        after, gain = TURNED, norm.gain
        if gain is not None and any(self.has(axis) for axis in self.t.dims[gain.name]):
            if gain.name in self.kept:
                self.seen.kept.add(gain)
            else:
                self.seen.gains.add(gain)
                after = State("turned", gain)
                if not whole(norm.axes[0], self.leaf):
                    self.seen.wholes[gain.name] = form(norm.axes[0], {self.leaf: "stream"})
        if norm.bias is not None:
            self._add_bias(op, norm.bias, after)
        self.state |= {id(y): after for y in op.outputs}

    def _is_whole(self, gain: Gain, axes: Iterable[Axis]) -> bool:
        """Whether one of these axes is all that the norm of a gain averages."""
        wanted = self.seen.wholes.get(gain.name)
        return wanted is None or any(form(axis, {self.leaf: "stream"}) == wanted for axis in axes)

    def _add_bias(self, op: Op, name: str, after: State) -> None:
        slots = {(name, dim) for dim, a in enumerate(self.t.dims[name]) if self.has(a)}
        if not slots and after.gain is not None:
            self._refuse(op, [after], "adds one number to all channels")
        if after.gain is None:
            self.seen.writes |= slots
            return
        for slot in slots:
            self.seen.biases[slot].add(after.gain)

    # --- products ----------------------------------------------------------------------------

    def multiplied(self, op: Op, left: Factor, right: Factor) -> State:
        """A weight that reads the channels, one that writes them, or a sum over positions."""
        both = left, right
        weights = [side for side in both if side.name is not None]
        if any(self.has(side.axis) for side in both):
            if len(weights) != 1:
                return self.lost(op, (left.x, right.x), _WITH_CHANNELS)
            weight = weights[0]
            return self._read(op, weight, right if weight is left else left)
        carrying = [side for side in both if self.carries(side.x)]
        if len(carrying) != 1 or len(weights) == 2:
            return self.lost(op, [side.x for side in carrying], _WITH_CHANNELS)
        side = carrying[0]
        if side.name is None:
            return self._state(op, side.x)  # over positions
        if any(self.has(axis) for axis in side.axes[:-2]):
            return self._refuse(op, (), "has weights of their own for each of the channels")
        return self._written(side.name, side.axes)

    def _read(self, op: Op, weight: Factor, signal: Factor) -> State:
        """A weight that reads the channels, and may write them too."""
        if any(self.has(axis) for axis in signal.axes if axis is not signal.axis):
            return self.lost(op, [signal.x], _WITH_CHANNELS)
        assert weight.name is not None
        self._note(op, weight.name, weight.axis, signal.x)
        others = [axis for axis in weight.axes if axis is not weight.axis and self.has(axis)]
        return self._written(weight.name, others) if others else ZERO

    def _written(self, name: str, axes: Iterable[Axis]) -> State:
        for axis in axes:
            if self.has(axis):
                self.seen.writes |= self.slots(name, axis)
        return TURNED

    def _note(self, op: Op, name: str, axis: Axis, signal: Tensor) -> None:
        state = self._state(op, signal)
        if state.kind in ("noise", "inside"):
            self._refuse(op, (), "reads what no longer is a plain turn")
        for slot in self.slots(name, axis):
            if state.gain and not self._is_whole(state.gain, [self.t.dims[name][slot[1]]]):
                self._refuse(op, [state], "reads a part of what a norm averages together")
            self.seen.reads[slot].add(state.gain)

    def convolved(self, op: Op, kernel: Kernel, carriers: Sequence[Tensor]) -> State:
        """Channels are read or written by all; a grouped kernel tells them apart."""
        axes, own = self.t.axes(kernel.x), self.t.axes(kernel.weight)
        positions = [axis for axis in (*axes, *own[2:]) if axis is not kernel.channels]
        name = self.t.stored(kernel.weight)
        if kernel.groups != 1 or name is None or any(map(self.has, positions)):
            return self.lost(op, carriers, "does not treat all channels alike")
        if self.has(kernel.channels):
            self._note(op, name, kernel.reads, kernel.x)
        if not self.has(kernel.writes):
            return ZERO
        made = self._written(name, [kernel.writes])
        return made if kernel.bias is None else self.shifted(op, made, kernel.bias)

    def looked_up(self, op: Op, table: Tensor, carriers: Sequence[Tensor]) -> State:
        """A table that is stored writes."""
        if self.t.stored(table) is None or len(carriers) != 1:
            return self.lost(op, carriers, "looks up what is no parameter")
        return self._state(op, table)

    # --- sums and factors --------------------------------------------------------------------

    def joined(self, op: Op, signals: Sequence[Tensor]) -> State:
        """What all of them are, or those that are not zero."""
        return self._together(op, (self._state(op, x) for x in signals))

    def _together(self, op: Op, several: Iterable[State]) -> State:
        states = list(dict.fromkeys(several))
        if len(states) > 1:
            states = [state for state in states if state != ZERO]
        if {*states} == {SAME, TURNED}:
            return TURNED
        if len(states) != 1:
            what = "adds or joins signals of which some are scaled by gain"
            return self._refuse(op, states, what)
        return states.pop()

    def summed(self, op: Op, signals: Sequence[Tensor], *, constant: bool) -> State:
        """What is the same for all channels stays so."""
        state = self.joined(op, signals)
        return self.shifted(op, state, None) if constant else state

    def shifted(self, op: Op, state: State, by: Tensor | None) -> State:
        """What is the same for all channels stays so."""
        return self._together(op, (state, SAME if by is None else self._state(op, by)))

    def scaled(self, op: Op, carriers: Sequence[Tensor]) -> State:
        """By what is the same for all channels."""
        states = [self._state(op, x) for x in carriers]
        signals = [s for s in states if s not in (NOISE, SAME)]
        if not signals:
            return NOISE if NOISE in states else SAME
        if NOISE in states:
            self.seen.random[self.where(op)] = None
        if len(signals) > 1:
            return self._refuse(op, signals, "multiplies channels one by one")
        return signals[0]

    def filled(
        self, op: Op, mask: Tensor, parts: Sequence[Any], carriers: Sequence[Tensor]
    ) -> State:
        """All channels get the same number at the same places."""
        if self.carries(mask) and self._state(op, mask) != SAME:
            return self.lost(op, carriers, "chooses channel by channel")
        states = [self._state(op, x) for x in parts if self.carries(x)]
        numbers = [x for x in parts if not self.carries(x)]
        states += [SAME if isinstance(x, Tensor) or x != 0 else ZERO for x in numbers]
        return self._together(op, states)

    def put(self, op: Op, source: object, kept: Sequence[Tensor]) -> State:
        """What stays and what is put there, perhaps in a part of a tensor."""
        states = [self._state(op, x) for x in kept]
        if not isinstance(source, Tensor) or not self.carries(source):
            return self._together(op, [*states, SAME])
        state = self._together(op, [*states, self._state(op, source)])
        return state if state.gain is None else self._refuse(op, [state], "writes on a part")

    def fresh(self, op: Op, kind: Fresh) -> State:
        """Nothing, and what is yet to be written, is zero."""
        if op.name == "rand_like":
            return self.lost(op, op.tensors(), "tells channels apart")
        made: dict[Fresh, State] = {"zeros": ZERO, "unset": ZERO, "number": SAME, "noise": NOISE}
        return made[kind]


_WITH_CHANNELS = "multiplies channels with channels"
