"""Operations that act on each entry by itself, and those that copy, cast or make tensors."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from gnomon.axes import Axis, Misfit, resolve
from gnomon.ops.context import Context, Op, Table, broadcast
from gnomon.ops.names import COPIES

_LINEAR_IN_A_PARAMETER = {"mul", "div", "neg"}
_ADDS = {"add", "add_", "sub", "sub_", "rsub", "where", "lerp", "copy_", "masked_fill"}
_KEEPS_ZERO = {"add", "sub", "rsub", "mul", "div", "copy", "_prelu_kernel"}


def is_pointwise(func: torch._ops.OpOverload) -> bool:
    """By PyTorch's own tag; in-place variants count like the operation they are named after."""
    if torch.Tag.pointwise in func.tags:
        return True
    namespace, _, name = func._schema.name.partition("::")
    packet = getattr(getattr(torch.ops, namespace), name.rstrip("_"), None)
    if packet is None or not name.endswith("_"):
        return False
    return any(torch.Tag.pointwise in getattr(packet, o).tags for o in packet.overloads())


def acts_per_entry(t: Context, op: Op) -> None:
    """Copies pass; parameters that are added write, those that multiply follow."""
    tensors = op.tensors()
    axes = broadcast(t, tensors)
    for tensor in tensors:
        if t.origin(tensor) is not None and op.name in _ADDS:
            t.use(tensor, "write")
    for output in op.outputs:
        own = axes[len(axes) - output.dim() :]
        fits = [resolve(axis).size for axis in own] == list(t.shape(output))
        if output.numel() or fits:  # some kernels return an empty buffer besides
            t.give(output, own)
    rounds = op.kwargs.get("rounding_mode") is not None
    if len(tensors) == 1 and op.name in _LINEAR_IN_A_PARAMETER and not rounds:
        t.views(op.outputs[0], tensors[0])
    _pass_zeros(t, op, tensors, axes)


def _pass_zeros(t: Context, op: Op, tensors: list[Tensor], axes: list[Axis]) -> None:
    name = op.name.rstrip("_") if op.name != "_prelu_kernel" else op.name
    if len(tensors) == 1:
        if not lives_at_zero(op.func, _scalars(op)):
            t.no_zeros(axes, op.name)
    elif name not in _KEEPS_ZERO:
        t.no_zeros(axes, op.name)
    elif name in ("add", "sub", "rsub"):
        if any(t.is_constant(x) for x in tensors):
            t.no_zeros(axes, op.name)
        for tensor in tensors:  # an addend without these channels shifts all of them
            own = [resolve(a).size for a in t.axes(tensor)]
            padded = [1] * (len(axes) - len(own)) + own
            t.no_zeros([a for a, size in zip(axes, padded, strict=True) if size == 1], op.name)


def _scalars(op: Op) -> tuple[object, ...]:
    return tuple(None if isinstance(a, Tensor) else a for a in op.args if not isinstance(a, list))


@lru_cache(maxsize=512)
def lives_at_zero(func: torch._ops.OpOverload, arguments: tuple[object, ...]) -> bool:
    """Whether f(0) = 0 and f has a slope there, found by calling it."""
    name = func._schema.name.rstrip("_")
    packet = getattr(torch.ops.aten, name.partition("::")[2], None)
    if packet is None:
        return False
    try:
        with torch.enable_grad():
            x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
            y = packet(*(x if a is None else a for a in arguments))
            y = y[0] if isinstance(y, tuple) else y  # some return a buffer besides
            (slope,) = torch.autograd.grad(y.sum(), x)
    except (RuntimeError, TypeError):
        return False
    return bool(y == 0) and bool(slope != 0)


def stays_itself(t: Context, op: Op) -> None:
    """Same numbers or same shape: clone, cast, detach, dropout masks."""
    for output in op.outputs:
        t.give(output, list(t.axes(op.args[0])))
    if op.name in COPIES:
        t.views(op.outputs[0], op.args[0])


def is_copied_into(t: Context, op: Op) -> None:
    """copy_: the source broadcasts into the destination."""
    broadcast(t, list(op.args[:2]))
    t.give(op.outputs[0], list(t.axes(op.args[0])))


def is_the_same_everywhere(t: Context, op: Op) -> None:
    """zeros, ones, full: every position is alike, so any axis may be any width."""
    for output in op.outputs:
        t.give(output, [Axis(size) for size in t.shape(output)])


def depends_on_position(t: Context, op: Op) -> None:
    """arange, eye, randperm: no channels to grow."""
    for output in op.outputs:
        t.give(
            output, [t.fixed(size, f"{op.name} depends on position") for size in t.shape(output)]
        )


_SAME = (
    *COPIES,
    *"zeros_like empty_like full_like ones_like dropout native_dropout zero_ fill_".split(),
    *"bernoulli_ bernoulli rand_like randn_like uniform_ normal_ _conj".split(),
    *"rrelu_with_noise rrelu_with_noise_ detach_ positive".split(),
)
_FACTORIES = (
    "empty zeros ones full new_zeros new_ones new_full new_empty scalar_tensor rand randn "
    "empty_strided new_empty_strided"
).split()
_POSITIONS = "arange eye linspace logspace randint randperm tril_indices triu_indices".split()


def is_restrided(t: Context, op: Op) -> None:
    """as_strided_ to the shape it has: only the memory format is written down anew."""
    x, size, stride = op.args[:3]
    strides = [(s, n) for s, n, width in zip(stride, x.stride(), size, strict=True) if width > 1]
    if tuple(size) != tuple(t.shape(op.outputs[0])) or any(s != n for s, n in strides):
        raise Misfit(f"no rule for {op.name} to another layout")
    t.give(op.outputs[0], list(t.axes(x)))


# Pointwise operations that PyTorch does not tag as such.
_UNTAGGED = (
    "hardswish hardswish_ threshold_ special_erf floor_divide prelu _prelu_kernel complex polar"
).split()

TABLE: Table = (
    dict.fromkeys(_SAME, stays_itself)
    | dict.fromkeys(_UNTAGGED, acts_per_entry)
    | dict.fromkeys(_FACTORIES, is_the_same_everywhere)
    | dict.fromkeys(_POSITIONS, depends_on_position)
    | {"copy_": is_copied_into, "as_strided_": is_restrided, "log_sigmoid_forward": acts_per_entry}
)
