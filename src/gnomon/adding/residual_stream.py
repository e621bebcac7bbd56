"""The stream through a residual block on the tape, and the branches that are added to it.

    y = x + b1(x) + b2(x + b1(x)) + ...        the stream x passes through additions alone

With every b zero the block is the identity, for every input.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from torch import Tensor, nn

from gnomon.adding.neighbour import activation_of, is_identity_on, range_of
from gnomon.errors import CannotPreserve
from gnomon.ops.context import Op
from gnomon.recording.recorder import Visit
from gnomon.recording.tape import Recording

# What hands its first argument on as it is, if the shape stays. (The recorder settles dropout.)
# Not the names of gnomon.ops.names: a transpose of equal sizes keeps the shape and not the stream.
PASSES = "view _unsafe_view reshape alias detach clone contiguous _to_copy native_dropout".split()
# What keeps the order of the entries: several of these, back to the first shape, change none.
_RESHAPES = "view _unsafe_view reshape squeeze unsqueeze".split()
_ADDS = ("add", "add_")
_NOT = "a copy of it with branches of zero would not be the identity:"


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


def branches(block: Block) -> list[tuple[int, Tensor]]:
    """What is added to the stream, last first, and at which operation.

    Raises CannotPreserve where the block has no such form.
    """
    return _stream(block, block.y, block.visit.end)


def summands(block: Block, tensor: Tensor, before: int) -> tuple[int, list[Tensor]]:
    """The operation that made a tensor by adding two, and the two; none if it did otherwise."""
    at = _maker(block, tensor, before)
    if at is None or not _plain_sum(block.recording.ops[at]):
        return before, []
    return at, [t for t in block.recording.ops[at].args[:2] if isinstance(t, Tensor)]


def _maker(block: Block, tensor: Tensor, before: int) -> int | None:
    """The operation before another that made a tensor, or wrote into it last."""
    ops = block.recording.ops
    places = range(before - 1, block.visit.start - 1, -1)
    return next((i for i in places if any(o is tensor for o in ops[i].outputs)), None)


def _stream(block: Block, tensor: Tensor, before: int) -> list[tuple[int, Tensor]]:
    """From a tensor back to x: what was added on the way, and at which operation."""
    at = _maker(block, tensor, before)
    if at is None:
        if tensor is block.x:
            return []
        raise CannotPreserve(f"{_NOT} its input does not reach its output by additions alone")
    op = block.recording.ops[at]
    first = op.args[0] if op.args and isinstance(op.args[0], Tensor) else None
    if _plain_sum(op):
        return _through_sum(block, op, at)
    if first is not None and _passes(block, op, first):
        return _stream(block, first, at)
    raise CannotPreserve(f"{_NOT} {_reason(op)}")


def _plain_sum(op: Op) -> bool:
    if op.name not in _ADDS:
        return False
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
    if op.name in PASSES:
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
