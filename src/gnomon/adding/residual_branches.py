"""How each branch of a residual block can end in zero.

Its last layer reads twins and cancels (see `gnomon.adding.zero`): its last two layers learn from
the first step, what stands before them from the second. Or else the gain of its last norm, or its
last kernel, is zero: then only that learns at the first step.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from gnomon.adding.ending import Ending, ending, root
from gnomon.adding.residual_stream import PASSES, Block, branches, summands
from gnomon.adding.zero import classes_of_twins, hidden_of
from gnomon.analysis.groups import Analysis, Group
from gnomon.axes import resolve
from gnomon.errors import CannotPreserve, Unsupported
from gnomon.ops.context import Op
from gnomon.planning.planner import Planner
from gnomon.recording.tape import Recording, owned_tensors
from gnomon.rules import R2R

# Operations that make zero of zero, and where norms have gain and shift among their arguments.
_KEEP_ZERO = (*PASSES, "transpose", "permute", "unsqueeze", "squeeze", "mean", "expand", "slice")
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
    twins:   what `gnomon.adding.zero.ZeroStart` needs, as JSON.
    """

    redrawn: tuple[str, ...]
    zero: tuple[str, ...] = ()
    twins: Mapping[str, Any] | None = None


def branch_ends(block: Block, analysis: Analysis, twins: int) -> tuple[BranchEnd, ...]:
    """How every branch can end in zero. Raises CannotPreserve where the block has no such form."""
    return tuple(
        e for at, branch in branches(block) for e in _ends(block, analysis, at, branch, twins)
    )


def _ends(block: Block, analysis: Analysis, at: int, branch: Tensor, twins: int) -> list[BranchEnd]:
    """How one branch ends in zero; of one that is a sum, each summand, unless it does as a whole.

    Raises CannotPreserve.
    """
    try:
        return [_end(block, analysis, at, branch, twins)]
    except CannotPreserve:
        made, parts = summands(block, branch, at)
        if not parts:
            raise
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
    plan = Planner(block.model, analysis, embeddings, R2R()).draft()
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
