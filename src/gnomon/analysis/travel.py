"""How channels that carry nothing new travel over the tape: where they stay so, and where not.

A norm over the channels is unmoved, but for its gain and eps, by new channels that are

    "zero"   under RMSNorm: the sum of squares stays what it was
    "mean"   under LayerNorm: the mean of the old ones; then nothing is left of them when the mean
             has been taken off, and the sum of squares stays what it was

Behind the norm both are "zero". On its way a signal may meet operations that do not keep this; then
it is "other": old channels are still what they were, new ones are anything. Readers of zeros are
free, readers of "mean" and "other" must be zero, and a norm of them cannot be passed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from gnomon.analysis.norms import Norm, of_leaf
from gnomon.analysis.walk import Factor, Fresh, Kernel, Slot, Walk
from gnomon.axes import Axis
from gnomon.ops.context import Context, Op
from gnomon.ops.pointwise import is_pointwise, lives_at_zero
from gnomon.recording.tape import Recording

# "noise": a dropout mask, which is set to its mean for every proof
State = Literal["zero", "mean", "other", "noise"]


@dataclass
class Travel:
    """What the tape says of one leaf whose new channels carry nothing new.

    reads:   per (tensor, dimension), in which states channels are read there.
    writers: tensors whose new entries make the channels; those in `neutral` must be zero.
    lost:    why the first norm on the way cannot be passed, or "".
    """

    writes: State
    reads: dict[Slot, set[State]] = field(default_factory=lambda: defaultdict(set))
    writers: set[str] = field(default_factory=set)
    neutral: set[str] = field(default_factory=set)
    lost: str = ""


def travel(
    t: Context,
    recordings: Sequence[Recording],
    norms: Sequence[Sequence[Norm]],
    leaf: Axis,
    writes: State,
    modules: Mapping[int, str],
) -> Travel:
    """Follow a leaf over all recordings; `writes` is what its writers give the new channels."""
    found = Travel(writes)
    for recording, own in zip(recordings, norms, strict=True):
        _Walk(t, leaf, list(of_leaf(own, leaf)), modules, found).run(recording.ops)
    return found


@dataclass
class _Walk(Walk[State]):
    """What it does not know, or cannot keep, is "other": nothing is refused before a norm."""

    found: Travel
    _why: dict[int, str] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        ops = [op for norm in self.norms for op in norm.ops]
        self._last = {id(norm.last): norm for norm in self.norms}
        self._inside = {id(op) for op in ops} - self._last.keys()
        self._affine = {id(op) for op in ops if op.name in ("mul", "add")}
        self.found.neutral |= {norm.bias for norm in self.norms if norm.bias is not None}

    def meet(self, op: Op, carriers: Sequence[Tensor], made: Sequence[Tensor]) -> None:
        """Inside of a norm only its gain and bias are looked at."""
        outputs = [y for y in made if self.t.stored(y) is None]
        if not outputs and all(self.t.stored(x) is not None for x in carriers):
            return  # computed from parameters alone
        if id(op) in self._last:
            self._pass_norm(self._last[id(op)])
            return
        if id(op) in self._inside and not (id(op) in self._affine and self._signals(carriers)):
            return
        state = self.after(op, carriers, made)
        for y in outputs:
            self._set(op, y, state, carriers)

    def _signals(self, carriers: Sequence[Tensor]) -> list[Tensor]:
        """Those that are no parameters and not computed from parameters alone, as 1 + w is."""
        followed = self.state.keys()
        return [
            x
            for x in carriers
            if self.t.stored(x) is None and (id(x) in followed or not self.t.is_constant(x))
        ]

    def _pass_norm(self, norm: Norm) -> None:
        state = self.state.get(norm.x[0], "other")
        if state != self.found.writes and not self.found.lost:
            behind = "its input comes out of a norm, which leaves the others no common mean"
            reason = self._why.get(norm.x[0], behind)
            self.found.lost = f"before the norm in '{norm.where}', {reason}"
        self.state[id(norm.last.outputs[0])] = "zero"

    def _set(self, op: Op, y: Tensor, state: State, carriers: Sequence[Tensor]) -> None:
        self.state[id(y)] = state
        if state != "other":
            return
        old = next((w for x in carriers if (w := self._why.get(id(x)))), None)
        wanted = {"zero": "zeros", "mean": "the mean of the others"}[self.found.writes]
        self._why[id(y)] = old or f"{op.name} in '{self.where(op)}' does not keep channels {wanted}"

    def _state(self, x: Tensor) -> State:
        """Of an activation, or of a parameter that enters the stream as it is."""
        name = self.t.stored(x)
        return self.state.get(id(x), "other") if name is None else self._written(name)

    def _written(self, name: str) -> State:
        self.found.writers.add(name)
        return "zero" if name in self.found.neutral else self.found.writes

    def lost(self, op: Op, carriers: Sequence[Tensor], what: str) -> State:
        """Anything, which a norm may not average and readers must not see."""
        return "other"

    def bent(self, op: Op, carriers: Sequence[Tensor]) -> State:
        """Activations and extremes of zeros are zeros; shuffled channels are what they were."""
        if op.name in _SHUFFLES:
            return self.joined(op, carriers)
        if op.name.rstrip("_") in _EXTREMES_OVER_POSITIONS:
            return "zero" if self.joined(op, carriers) == "zero" else "other"
        if len(op.tensors()) > 1 or not is_pointwise(op.func) or self._state(carriers[0]) != "zero":
            return "other"
        scalars = tuple(None if isinstance(a, Tensor) else a for a in op.args)
        return "zero" if lives_at_zero(op.func, scalars) else "other"

    # --- products --------------------------------------------------------------------------

    def multiplied(self, op: Op, left: Factor, right: Factor) -> State:
        """The first factor that can be the signal is."""
        made = self._read(op, left, right) or self._read(op, right, left)
        return made or "other"

    def _read(self, op: Op, signal: Factor, weight: Factor) -> State | None:
        """What a product gives, if this is the signal in it; notes what the weight reads."""
        writes = weight.name is not None and self.carries(weight.x)
        if signal.name is None and self.has(signal.axis):
            if weight.name is None:
                return "other"
            self._note(weight.name, weight.axis, self._state(signal.x))
            return self._written(weight.name) if any(map(self.carries, op.outputs)) else "other"
        if signal.name is None and self.carries(signal.x):  # over positions
            return None if self.carries(weight.x) else self._state(signal.x)
        return self._written(weight.name) if weight.name is not None and writes else None

    def _note(self, name: str, axis: Axis, state: State) -> None:
        for slot in self.slots(name, axis):
            self.found.reads[slot].add(state)

    def convolved(self, op: Op, kernel: Kernel, carriers: Sequence[Tensor]) -> State:
        """Channels are read, written, or (depthwise) passed one by one."""
        weight, name = kernel.weight, self.t.stored(kernel.weight)
        state = self._state(kernel.x) if self.has(kernel.channels) else None
        if name is None:
            return "other"
        if state is not None:
            if kernel.groups == 1:
                self._note(name, kernel.reads, state)
            elif weight.shape[1] == 1 and not kernel.transposed and self.carries(op.outputs[0]):
                return "zero" if state == "zero" and self._silent(kernel.bias) else "other"
            elif self.has(kernel.reads):
                self._note(name, kernel.reads, "other")
        if not self.has(kernel.writes):
            return "other"
        made = self._written(name)
        return made if kernel.bias is None else self.shifted(op, made, kernel.bias)

    def _silent(self, bias: Tensor | None) -> bool:
        return bias is None or (self.t.stored(bias) is not None and self._state(bias) == "zero")

    def looked_up(self, op: Op, table: Tensor, carriers: Sequence[Tensor]) -> State:
        """A table that is stored writes."""
        return "other" if self.t.stored(table) is None else self._state(table)

    # --- sums and factors ------------------------------------------------------------------

    def joined(self, op: Op, signals: Sequence[Tensor]) -> State:
        """What all of them are."""
        states = {self._state(x) for x in signals}
        return states.pop() if len(states) == 1 else "other"

    def summed(self, op: Op, signals: Sequence[Tensor], *, constant: bool) -> State:
        """What is the same for all channels moves their mean along, and zeros away."""
        state = self.joined(op, signals)
        return "other" if constant and state == "zero" else state

    def shifted(self, op: Op, state: State, by: Tensor | None) -> State:
        """The same number for all channels moves their mean along."""
        same = state == "mean" if by is None else self._state(by) == state
        return state if same else "other"

    def scaled(self, op: Op, carriers: Sequence[Tensor]) -> State:
        """Zeros stay zeros; a mean only if all channels are multiplied alike."""
        signals = [x for x in carriers if self.state.get(id(x)) != "noise"] or carriers
        if len(signals) == 1 and self._signals(signals):
            return self._state(signals[0])
        zeros = [self._state(x) for x in self._signals(signals)].count("zero")
        return "zero" if zeros == 1 else "other"

    def filled(
        self, op: Op, mask: Tensor, parts: Sequence[Any], carriers: Sequence[Tensor]
    ) -> State:
        """All channels get the same number at the same places."""
        state = self.joined(op, carriers)
        if state == "other" or not all(x.is_floating_point() for x in carriers):
            return "other"
        number = parts[1] if op.name.startswith("masked_fill") else None
        return state if state == "mean" or number == 0 else "other"

    def put(self, op: Op, source: object, kept: Sequence[Tensor]) -> State:
        """What stays and what is put there."""
        both = [x for x in (*kept, source) if isinstance(x, Tensor) and self.carries(x)]
        return self.joined(op, both) if len(both) == len(kept) + 1 else "other"

    def fresh(self, op: Op, kind: Fresh) -> State:
        """Zeros are the mean of zeros; an empty tensor like another is a mask yet to be drawn."""
        if kind == "zeros":
            return self.found.writes
        return "noise" if kind == "noise" or op.name == "empty_like" else "other"


_SHUFFLES = ("channel_shuffle", "native_channel_shuffle")
_EXTREMES_OVER_POSITIONS = (
    "amax amin max min max_pool1d max_pool2d_with_indices max_pool3d_with_indices "
    "adaptive_max_pool2d"
).split()
