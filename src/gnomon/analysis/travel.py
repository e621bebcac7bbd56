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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from gnomon.analysis.norms import Norm, of_leaf
from gnomon.axes import Axis, leaves, resolve
from gnomon.ops import shape
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
    reads: dict[tuple[str, int], set[State]] = field(default_factory=lambda: defaultdict(set))
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
        _Walk(t, leaf, list(of_leaf(own, leaf)), found, modules).run(recording.ops)
    return found


class _Walk:
    """One recording, operation by operation."""

    def __init__(
        self,
        t: Context,
        leaf: Axis,
        norms: Sequence[Norm],
        found: Travel,
        modules: Mapping[int, str],
    ) -> None:
        self.t, self.leaf, self.found, self._modules = t, leaf, found, modules
        self.state: dict[int, State] = {}
        self._why: dict[int, str] = {}
        self._last = {id(norm.last): norm for norm in norms}
        self._inside = {id(op) for norm in norms for op in norm.ops} - self._last.keys()
        self._affine = {id(op) for norm in norms for op in norm.ops if op.name in ("mul", "add")}
        found.neutral |= {norm.bias for norm in norms if norm.bias is not None}

    def run(self, ops: Iterable[Op]) -> None:
        """Give every tensor that carries the leaf a state."""
        for op in ops:
            carriers = [x for x in op.tensors() if self._carries(x)]
            outputs = [y for y in op.outputs if self._carries(y) and self.t.stored(y) is None]
            if not outputs and not any(self.t.stored(x) is None for x in carriers):
                continue  # a parameter that is only looked at from another side
            if id(op) in self._last:
                self._pass_norm(self._last[id(op)])
                continue
            if id(op) in self._inside and not (id(op) in self._affine and self._signals(carriers)):
                continue
            state = self._after(op, carriers)
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
        path = self._modules.get(id(op.path[-1]), "") if op.path else ""
        wanted = {"zero": "zeros", "mean": "the mean of the others"}[self.found.writes]
        self._why[id(y)] = old or f"{op.name} in '{path}' does not keep channels {wanted}"

    def _carries(self, x: Tensor) -> bool:
        return any(part is self.leaf for axis in self.t.axes(x) for part in leaves(axis))

    def _state(self, x: Tensor) -> State:
        """Of an activation, or of a parameter that enters the stream as it is."""
        name = self.t.stored(x)
        if name is None:
            return self.state.get(id(x), "other")
        self.found.writers.add(name)
        return "zero" if name in self.found.neutral else self.found.writes

    def _after(self, op: Op, carriers: Sequence[Tensor]) -> State:
        name = op.name.rstrip("_") if op.name != "_prelu_kernel" else op.name
        if name in _HANDLERS:
            return _HANDLERS[name](self, op, carriers)
        if (op.name in shape.TABLE and op.name != "glu") or name in SAME_NUMBERS:
            return self.joined(carriers)
        if name in LINEAR_OVER_POSITIONS and not self._reduces(op):
            return self.joined(carriers)
        if name in _ZERO_OVER_POSITIONS and not self._reduces(op):
            return "zero" if self.joined(carriers) == "zero" else "other"
        if len(op.tensors()) == 1 and is_pointwise(op.func):
            return self._pointwise(op, carriers)
        return "other"

    def _reduces(self, op: Op) -> bool:
        return any(self._carries(x) for x in op.tensors()) and not any(
            self._carries(y) for y in op.outputs
        )

    def joined(self, carriers: Sequence[Tensor]) -> State:
        """Of several signals side by side, or added: what all of them are."""
        states = {self._state(x) for x in carriers}
        return states.pop() if len(states) == 1 else "other"

    def _pointwise(self, op: Op, carriers: Sequence[Tensor]) -> State:
        if not carriers or self._state(carriers[0]) != "zero":
            return "other"
        scalars = tuple(None if isinstance(a, Tensor) else a for a in op.args)
        return "zero" if lives_at_zero(op.func, scalars) else "other"

    # --- products --------------------------------------------------------------------------

    def _product(self, op: Op, left: Tensor, right: Tensor, addend: Tensor | None) -> State:
        """left @ right + addend."""
        if not any(self._carries(y) for y in op.outputs):
            addend = None
        a, b = self.t.axes(left), self.t.axes(right)
        inner_a, inner_b = a[-1], b[-2] if len(b) > 1 else b[-1]
        made = self._read(op, left, right, inner_a, inner_b)
        if made is None:
            made = self._read(op, right, left, inner_b, inner_a)
        if made is None:
            made = "other"
        if addend is None:
            return made
        if not self._carries(addend):  # the same number for all channels
            return "mean" if made == "mean" else "other"
        return made if self._state(addend) == made else "other"

    def _read(
        self, op: Op, x: Tensor, weight: Tensor, axis: Axis, weight_axis: Axis
    ) -> State | None:
        """What a product gives, if x is the signal in it; notes what the weight reads."""
        name = self.t.stored(weight)
        if self._has(axis) and self.t.stored(x) is None:
            if name is None:
                return "other"
            self._note(name, weight_axis, self._state(x))
            made = any(self._carries(y) for y in op.outputs)
            return self._written(weight) if made else "other"
        if self._carries(x) and self.t.stored(x) is None:  # over positions
            return None if self._carries(weight) else self._state(x)
        return self._written(weight) if name is not None and self._carries(weight) else None

    def _written(self, weight: Tensor) -> State:
        return self._state(weight) if self.t.stored(weight) is not None else "other"

    def _has(self, axis: Axis) -> bool:
        return any(part is self.leaf for part in leaves(axis))

    def _note(self, name: str, axis: Axis, state: State) -> None:
        dims = [d for d, own in enumerate(self.t.dims[name]) if self._has(own)]
        exact = [d for d in dims if self.t.dims[name][d] is axis] or dims
        for dim in exact:
            self.found.reads[name, dim].add(state)

    def multiplies(self, op: Op, carriers: Sequence[Tensor]) -> State:
        """mm, bmm, mv, dot."""
        return self._product(op, op.args[0], op.args[1], None)

    def multiplies_and_adds(self, op: Op, carriers: Sequence[Tensor]) -> State:
        """addmm, baddbmm."""
        return self._product(op, op.args[1], op.args[2], op.args[0])

    def convolves(self, op: Op, carriers: Sequence[Tensor]) -> State:
        """Channels are read, written, or (depthwise) passed one by one."""
        x, weight, bias = op.args[:3]
        transposed, groups = op.args[6], op.args[8]
        channels = self.t.axes(x)[1 - weight.dim()]
        reads, writes = (0, 1) if transposed else (1, 0)
        name, state = self.t.stored(weight), self._state(x) if self._has(channels) else None
        if state is not None and name is not None:
            if groups == 1:
                self._note(name, self.t.axes(weight)[reads], state)
            elif weight.shape[1] == 1 and not transposed and self._carries(op.outputs[0]):
                return "zero" if state == "zero" and self._silent(bias) else "other"
            elif self._has(self.t.axes(weight)[reads]):
                self._note(name, self.t.axes(weight)[reads], "other")
        if name is None or not self._has(self.t.axes(weight)[writes]):
            return "other"
        made = self._written(weight)
        return made if bias is None or self._state(bias) == made else "other"

    def _silent(self, bias: Tensor | None) -> bool:
        return bias is None or (self.t.stored(bias) is not None and self._state(bias) == "zero")

    # --- sums and factors ------------------------------------------------------------------

    def adds(self, op: Op, carriers: Sequence[Tensor]) -> State:
        """add, sub: what is the same for all channels moves their mean along, and zeros away."""
        states = self.joined(carriers)
        others = [x for x in op.args[:2] if not (isinstance(x, Tensor) and self._carries(x))]
        return "other" if others and states == "zero" else states

    def scales(self, op: Op, carriers: Sequence[Tensor]) -> State:
        """mul, div: zeros stay zeros; a mean only if all channels are multiplied alike."""
        top = op.args[0]
        if op.name.startswith("div"):  # by what is the same for all channels
            divisor = op.args[1]
            if isinstance(divisor, Tensor) and self._carries(divisor):
                return "other"
            if op.kwargs.get("rounding_mode") is not None or not isinstance(top, Tensor):
                return "other"
        drops = [x for x in carriers if self.state.get(id(x)) == "noise"]
        carriers = [
            x for x in carriers if len(drops) == len(carriers) or all(x is not d for d in drops)
        ]
        signals = self._signals(carriers)
        if len(signals) != len(carriers) or len(carriers) > 1:
            return "zero" if [self._state(x) for x in signals].count("zero") == 1 else "other"
        return self._state(signals[0])

    def fills(self, op: Op, carriers: Sequence[Tensor]) -> State:
        """masked_fill, where: all channels get the same number at the same places."""
        same = all(x.is_floating_point() for x in carriers)
        state = self.joined(carriers)
        if not same or state == "other":
            return "other"
        number = op.args[2] if op.name.startswith("masked_fill") else None
        return state if state == "mean" or number == 0 else "other"

    def keeps(self, op: Op, carriers: Sequence[Tensor]) -> State:
        """neg and casts."""
        return self.joined(carriers)

    def pads(self, op: Op, carriers: Sequence[Tensor]) -> State:
        """constant_pad_nd along other dimensions."""
        state = self.joined(carriers)
        number = op.argument(2, "value", 0)
        return state if state == "mean" or not number else "other"

    def starts(self, op: Op, carriers: Sequence[Tensor]) -> State:
        """zeros: nothing, and the mean of nothing."""
        return self.found.writes

    def drops(self, op: Op, carriers: Sequence[Tensor]) -> State:
        """empty_like, bernoulli_: how a dropout mask is made."""
        return "noise"

    def looks_up(self, op: Op, carriers: Sequence[Tensor]) -> State:
        """embedding: the columns of a table."""
        return self._written(op.args[0])

    def is_copied(self, op: Op, carriers: Sequence[Tensor]) -> State:
        """copy_: as its source."""
        source = op.args[1]
        if isinstance(source, Tensor) and self._carries(source):
            return self.joined([x for x in carriers if x is source])
        return "other"

    def is_put(self, op: Op, carriers: Sequence[Tensor]) -> State:
        """index_put: what stays and what is put there."""
        both = op.args[0], op.args[2]
        return self.joined(both) if all(self._carries(x) for x in both) else "other"


_Handler = Callable[[_Walk, Op, Sequence[Tensor]], State]

_HANDLERS: Mapping[str, _Handler] = (
    dict.fromkeys(("mm", "bmm", "mv", "dot", "_grouped_mm"), _Walk.multiplies)
    | dict.fromkeys(("addmm", "baddbmm"), _Walk.multiplies_and_adds)
    | dict.fromkeys(("convolution", "convolution_overrideable"), _Walk.convolves)
    | dict.fromkeys(("add", "sub", "rsub"), _Walk.adds)
    | dict.fromkeys(("mul", "div"), _Walk.scales)
    | dict.fromkeys(("masked_fill", "where"), _Walk.fills)
    | dict.fromkeys(("empty_like", "rand_like", "bernoulli"), _Walk.drops)
    | dict.fromkeys(("zeros", "zeros_like", "new_zeros"), _Walk.starts)
    | {
        "neg": _Walk.keeps,
        "constant_pad_nd": _Walk.pads,
        "embedding": _Walk.looks_up,
        "copy": _Walk.is_copied,
        "index_put": _Walk.is_put,
    }
)
SAME_NUMBERS = (
    "clone alias detach _to_copy contiguous lift_fresh dropout native_dropout positive as_strided "
    "roll flip"
).split()
LINEAR_OVER_POSITIONS = (
    "mean sum cumsum avg_pool1d avg_pool2d avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d "
    "adaptive_avg_pool1d adaptive_avg_pool2d upsample_nearest1d upsample_nearest2d "
    "upsample_nearest3d upsample_linear1d upsample_bilinear2d upsample_bicubic2d "
    "_upsample_bilinear2d_aa _upsample_bicubic2d_aa reflection_pad1d reflection_pad2d "
    "replication_pad1d replication_pad2d _fft_r2c _fft_c2r _fft_c2c"
).split()
_ZERO_OVER_POSITIONS = (
    "amax amin max min max_pool1d max_pool2d_with_indices max_pool3d_with_indices "
    "adaptive_max_pool2d"
).split()


def whole(axis: Axis, leaf: Axis) -> bool:
    """Whether an axis is nothing but this leaf."""
    return resolve(axis) is leaf
