"""The branches of a residual block on the tape, and how each of them can end in zero.

    y = x + b1(x) + b2(x + b1(x)) + ...        the stream x passes through additions alone

With every b zero the block is the identity, for every input. A branch ends in zero if its last
layer reads twins and cancels (see `gnomon.zero`): its last two layers learn from the first step,
what stands before them from the second; or else if the gain of its last norm, or its last kernel,
is zero: then only that learns at the first step.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from gnomon.axes import resolve
from gnomon.ending import Ending, ending, root
from gnomon.errors import CannotPreserve, Unsupported
from gnomon.groups import Analysis, Group
from gnomon.neighbour import activation_of, is_identity_on, range_of
from gnomon.ops.context import Op
from gnomon.planner import Planner
from gnomon.rules import R2R
from gnomon.tape import Recording, Visit, owned_tensors
from gnomon.zero import classes_of_twins, hidden_of

# What hands its first argument on as it is, if the shape stays. (The recorder settles dropout.)
_PASSES = "view _unsafe_view reshape alias detach clone contiguous _to_copy native_dropout".split()
# What keeps the order of the entries: several of these, back to the first shape, change none.
_RESHAPES = "view _unsafe_view reshape squeeze unsqueeze".split()
_ADDS = ("add", "add_")
# Operations that make zero of zero, and where norms have gain and shift among their arguments.
_KEEP_ZERO = (*_PASSES, "transpose", "permute", "unsqueeze", "squeeze", "mean", "expand", "slice")
_NORMS = {
    "native_batch_norm": (1, 2),
    "cudnn_batch_norm": (1, 2),
    "_native_batch_norm_legit": (1, 2),
    "_native_batch_norm_legit_no_training": (1, 2),
    "native_layer_norm": (2, 3),
    "native_group_norm": (1, 2),
}
_PRODUCTS = {"convolution": (1, 2), "addmm": (2, 0), "mm": (1, None)}


@dataclass(frozen=True)
class BranchEnd:
    """How one branch of a copy becomes zero, with names relative to the block.

    redrawn: last kernels, which are drawn anew where several copies would otherwise be alike.
    zero:    tensors that become zero; or
    twins:   what `gnomon.zero.ZeroStart` needs, as JSON.
    """

    redrawn: tuple[str, ...]
    zero: tuple[str, ...] = ()
    twins: Mapping[str, Any] | None = None


@dataclass(frozen=True, eq=False)
class Block:
    """A block of a model where one recording on real tensors calls it.

    own: the names of the tensors that only it holds.
    """

    model: nn.Module
    path: str
    recording: Recording
    visit: Visit
    own: Collection[str]

    @property
    def x(self) -> Tensor:
        """What it was given."""
        (x, *_) = (t for t in self.visit.inputs if isinstance(t, Tensor))
        return x

    @property
    def y(self) -> Tensor:
        """What it returned, or the first of it."""
        y = self.visit.output[0] if isinstance(self.visit.output, tuple) else self.visit.output
        assert isinstance(y, Tensor)
        return y

    def until(self, position: int, tensor: Tensor) -> Recording:
        """Its operations before one of them, as a pass from x to a tensor."""
        ops = self.recording.ops[self.visit.start : position]
        return Recording(ops, [self.x], [tensor])


def branch_ends(block: Block, analysis: Analysis, twins: int) -> tuple[BranchEnd, ...]:
    """How every branch can end in zero. Raises CannotPreserve where the block has no such form."""
    stream = _stream(block, block.y, block.visit.end)
    return tuple(e for at, branch in stream for e in _ends(block, analysis, at, branch, twins))


def _stream(block: Block, tensor: Tensor, before: int) -> list[tuple[int, Tensor]]:
    """From a tensor back to x: what was added on the way, and at which operation."""
    ops = block.recording.ops
    places = range(before - 1, block.visit.start - 1, -1)
    at = next((i for i in places if any(o is tensor for o in ops[i].outputs)), None)
    if at is None:
        if tensor is block.x:
            return []
        raise CannotPreserve(f"{_NOT} its input does not reach its output by additions alone")
    op = ops[at]
    first = op.args[0] if op.args and isinstance(op.args[0], Tensor) else None
    if op.name in _ADDS and _plain_sum(op):
        return _through_sum(block, op, at)
    if first is not None and _passes(block, op, first):
        return _stream(block, first, at)
    raise CannotPreserve(f"{_NOT} {_reason(op)}")


_NOT = "a copy of it with branches of zero would not be the identity:"


def _plain_sum(op: Op) -> bool:
    tensors = [t for t in op.args[:2] if isinstance(t, Tensor)]
    shapes = {tuple(t.shape) for t in tensors} | set(op.shapes)
    return len(tensors) == 2 and len(shapes) == 1 and op.argument(2, "alpha", 1) == 1


def _through_sum(block: Block, op: Op, at: int) -> list[tuple[int, Tensor]]:
    """The stream is the summand that leads back to x; the other one is a branch."""
    refusals = []
    for one, other in ((op.args[0], op.args[1]), (op.args[1], op.args[0])):
        try:
            return [*_stream(block, one, at), (at, other)]
        except CannotPreserve as refusal:
            refusals.append(refusal)
    raise min(refusals, key=lambda refusal: "behind no layer" in str(refusal))


def _passes(block: Block, op: Op, first: Tensor) -> bool:
    """Whether an operation hands the stream on as it is, or in another shape for a while."""
    if op.name in _RESHAPES:
        return math.prod(op.shapes[0]) == first.numel() and op.outputs[0].dtype == first.dtype
    if op.name in _PASSES:
        return op.shapes[0] == tuple(first.shape) and op.outputs[0].dtype == first.dtype
    activation = activation_of(op)
    if activation is None:
        return False
    arriving = range_of(block.recording, block.visit.start, block.x)
    return is_identity_on(activation, arriving)


def _reason(op: Op) -> str:
    where = type(op.path[-1]).__name__ if op.path else "the model"
    if "norm" in op.name or op.name in ("rsqrt", "var_mean"):
        return (
            f"{op.name} (in {where}) stands on the stream behind the sum (post-norm), and changes "
            f"what passes. Use Deepen(...) with its residual block behind it"
        )
    return f"{op.name} (in {where}) stands between its input and its output, behind no layer's sum"


def _ends(block: Block, analysis: Analysis, at: int, branch: Tensor, twins: int) -> list[BranchEnd]:
    """How one branch ends in zero; of one that is a sum, each summand, unless it does as a whole.

    Raises CannotPreserve.
    """
    try:
        return [_end(block, analysis, at, branch, twins)]
    except CannotPreserve:
        ops = block.recording.ops
        places = range(block.visit.start, at)
        made = next((i for i in places if any(o is branch for o in ops[i].outputs)), None)
        if made is None or ops[made].name not in _ADDS or not _plain_sum(ops[made]):
            raise
        parts = [t for t in ops[made].args[:2] if isinstance(t, Tensor)]
        return [e for part in parts for e in _ends(block, analysis, made, part, twins)]


def _end(block: Block, analysis: Analysis, at: int, branch: Tensor, twins: int) -> BranchEnd:
    try:
        return _twins(block, analysis, block.until(at, branch), twins)
    except (CannotPreserve, Unsupported) as refusal:
        found = _last_scale(block, block.until(at, branch))
        if found is None:
            raise CannotPreserve(f"one of its branches cannot end in zero: {refusal}") from None
        return found


def _twins(block: Block, analysis: Analysis, run: Recording, twins: int) -> BranchEnd:
    """The last layer reads twins and cancels. Raises CannotPreserve."""
    end = ending(block.model, run)
    b = _root(end)
    group = _hidden(analysis, end)
    n = resolve(group.leaf).size
    embeddings = {group.name: classes_of_twins(n, twins)}
    plan = Planner(block.model, analysis, embeddings, R2R()).plan("", 0, "", (), ())
    touched = {e.name for e in plan.edits} | end.weights | ({end.bias} if end.bias else set())
    if not touched <= set(block.own):
        raise CannotPreserve(f"'{min(touched - set(block.own))}' is not the block's alone")
    partly = [
        e.name for e in plan.edits for d in e.dims
        if d.role == "read" and plan.embedding(d.form).old and e.name in end.weights
    ]  # fmt: skip
    if partly:
        raise CannotPreserve(f"'{partly[0]}' reads other channels besides those of this branch")
    edits = [replace(e, name=_inside(block, e.name)) for e in plan.edits]
    data = {
        "group": group.name,
        "channels": n,
        "twins": twins,
        "edits": [dataclasses.asdict(e) for e in edits],
        "bias": _inside(block, end.bias) if end.bias else None,
        "root": b,
    }
    return BranchEnd(tuple(sorted(_inside(block, n) for n in end.weights)), twins=data)


def _root(end: Ending) -> float:
    """Where the tail is zero; a model without numbers cannot be asked, unless there is no tail."""
    if isinstance(end.start, FakeTensor) or end.start.is_meta:
        if all(op.name in _KEEP_ZERO for op in end.tail):
            return 0.0
        raise Unsupported("what stands behind its last layer cannot be tried on 'meta'")
    return root(end, allow_dead=False)


def _hidden(analysis: Analysis, end: Ending) -> Group:
    """Of the channels that the last layer reads those with the fewest writers: v, not heads."""
    usual = hidden_of(analysis, end)
    found = [
        g for g in analysis.groups
        if g.verdict in ("growable", "normed") and resolve(g.leaf).size > 1
        and any(s.name in end.weights and s.role == "read" for s in g.slots)
    ]  # fmt: skip
    return min(found or [usual], key=lambda g: (len(g.slots), -g.width))


def _last_scale(block: Block, run: Recording) -> BranchEnd | None:
    """The gain and shift of the norm that the branch ends in, or the last kernel and its bias."""
    owned = {id(t): name for name, t in owned_tensors(block.model).items()}
    tensor, ops = run.outputs[0], run.ops
    for at in range(len(ops) - 1, -1, -1):
        op = ops[at]
        if not any(o is tensor for o in op.outputs):
            continue
        places = _NORMS.get(op.name) or _PRODUCTS.get(op.name)
        if places is not None:
            return _zeroed(block, op, places, owned, replace(run, ops=ops[:at]))
        scaled = op.name in ("mul", "div") and len(op.tensors()) == 1
        if not (scaled or op.name in _KEEP_ZERO) or not isinstance(op.args[0], Tensor):
            return None
        tensor = op.args[0]
    return None


def _zeroed(
    block: Block,
    op: Op,
    places: Sequence[int | None],
    owned: Mapping[int, str],
    run: Recording,
) -> BranchEnd | None:
    arguments = [op.args[i] for i in places if i is not None and i < len(op.args)]
    held = [_stored(run.ops, t) for t in arguments if isinstance(t, Tensor)]
    names = [owned.get(id(t), "") for t in held]
    if not names or not isinstance(arguments[0], Tensor) or not set(names) <= set(block.own):
        return None
    kernels: tuple[str, ...] = ()
    if op.name in _NORMS:
        try:
            weights = ending(block.model, replace(run, outputs=[op.args[0]])).weights
            kernels = tuple(sorted(_inside(block, n) for n in weights if n in block.own))
        except CannotPreserve:
            kernels = ()
    return BranchEnd(kernels, zero=tuple(_inside(block, n) for n in names))


def _stored(ops: Sequence[Op], tensor: Tensor) -> Tensor:
    for op in reversed(ops):
        if op.name in ("t", "transpose") and any(o is tensor for o in op.outputs):
            return op.args[0]  # type: ignore[no-any-return]
    return tensor


def _inside(block: Block, name: str) -> str:
    return name.removeprefix(f"{block.path}.")


def spread(tensor: Tensor) -> float:
    """The standard deviation of a kernel; of one that is zero, He's."""
    own = float(tensor.detach().double().std(correction=0))
    return own if own > 0 else math.sqrt(2 / max(1, tensor[0].numel()))
