"""FLOPs of a recorded forward pass, now and on grown axes, by PyTorch's own formulas."""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from gnomon.analysis.groups import Analysis
from gnomon.axes import Axis, form
from gnomon.ops.context import Op
from gnomon.recording.tape import Call, record, wants_fake


@contextlib.contextmanager
def counted() -> Iterator[FlopCounterMode]:
    """Count what is computed inside, attention in plain products.

    The counter does not know the fused kernel of the CPU.
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        yield counter


def grown_flops(analysis: Analysis, sizes: Mapping[Axis, int]) -> tuple[int, int]:
    """Forward FLOPs per example, before and after the leaves get these sizes.

    Counted as torch.utils.flop_counter does (a multiply-add is 2), on the first recorded call in
    eval mode, and divided by the first input's leading dimension.
    """
    recording = analysis.recordings[0]
    batch = recording.inputs[0].shape[0] if recording.inputs[0].dim() else 1
    names = {leaf: str(i) for i, leaf in enumerate(sizes)}
    by_name = {names[leaf]: size for leaf, size in sizes.items()}

    def grown(tensor: Tensor) -> torch.Size:
        axes = analysis.context.axes(tensor)
        return torch.Size(form(axis, names).grown(by_name) for axis in axes)

    now = sum(_count(op, lambda x: x.shape) for op in recording.ops)
    then = sum(_count(op, grown) for op in recording.ops) if sizes else now
    return now // max(batch, 1), then // max(batch, 1)


def more_flops(ops: Sequence[Op], weight: Tensor, shape: Sequence[int]) -> int:
    """FLOPs that operations take more if one of their arguments gets another shape."""

    def grown(tensor: Tensor) -> torch.Size:
        return torch.Size(shape) if tensor is weight else tensor.shape

    concerned = [op for op in ops if any(t is weight for t in op.tensors())]
    return sum(_count(op, grown) - _count(op, lambda x: x.shape) for op in concerned)


def flops_of(ops: Sequence[Op]) -> int:
    """FLOPs of these operations, all examples together."""
    return sum(_count(op, lambda x: x.shape) for op in ops)


def _each_by_its_own(x: Sequence[int], weights: Sequence[int], *_: object, **__: object) -> int:
    """(S, k) by one of (E, k, n) per row, or (B, S, k) by (B, k, n)."""
    return 2 * math.prod(x) * weights[-1]


def _count(op: Op, shape: Any) -> int:
    formula = flop_registry.get(op.func._overloadpacket)
    if op.name == "_grouped_mm":  # of which PyTorch has no formula yet
        formula = _each_by_its_own
    if formula is None:
        return 0
    args = [shape(a) if isinstance(a, Tensor) else a for a in op.args]
    kwargs = {k: shape(v) if isinstance(v, Tensor) else v for k, v in op.kwargs.items()}
    shapes = [shape(o) for o in op.outputs]
    out = shapes[0] if len(shapes) == 1 else tuple(shapes)
    of_shapes = _of_shapes(formula)
    if of_shapes is not None:
        return int(of_shapes(*args, **kwargs, out_shape=out))
    return int(formula(*args, **kwargs, out_val=out))


@functools.cache
def _of_shapes(formula: Callable[..., Any]) -> Callable[..., Any] | None:
    """A formula without PyTorch's search for tensors in its arguments, which takes far longer."""
    inner = getattr(formula, "__wrapped__", None)
    takes = inner is not None and "out_shape" in inspect.signature(inner).parameters
    return inner if takes else None


def block_flops(module: nn.Module, shape: Sequence[int]) -> int:
    """Forward FLOPs of a module on one tensor of this shape, all examples of it together."""
    like = next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))
    x = torch.zeros(tuple(shape), dtype=like.dtype, device=like.device)
    call: Call = ((x,), {})
    run = record(module, call, training=False, fake=counts_on_fake(module, call))
    return flops_of(run.ops)


def counts_on_fake(module: nn.Module, call: Call) -> bool:
    """Whether a pass on fake tensors is what tells the FLOPs of a module.

    Setting up fake tensors takes longer than a small pass. Recurrent layers have kernels of their
    own, whose products only show on fake ones.
    """
    recurrent = any(isinstance(m, nn.RNNBase) for m in module.modules())
    return recurrent or wants_fake(module, [call])
