"""Products with weights: matrix multiplication, convolution, embedding tables."""

from __future__ import annotations

from torch import Tensor

from gnomon.axes import Axis, Misfit, divide, product, resolve
from gnomon.ops.context import Context, Op, Table


def _product(t: Context, left: Tensor, right: Tensor) -> list[Axis]:
    """(..., m, k) @ (..., k, n): the axes of the result."""
    a, b = t.axes(left), t.axes(right)
    t.tie(a[-1], b[-2])
    t.contract(a[-1], left, right, b[-2])
    for i in range(len(a) - 2):
        t.tie(a[i], b[i])
    return [*a[:-2], a[-2], b[-1]]


def multiplies(t: Context, op: Op) -> None:
    """mm, bmm."""
    t.give(op.outputs[0], _product(t, op.args[0], op.args[1]))


def multiplies_a_vector(t: Context, op: Op) -> None:
    """mv, dot."""
    left, right = op.args[:2]
    a, b = t.axes(left), t.axes(right)
    t.tie(a[-1], b[0])
    t.contract(a[-1], left, right, b[0])
    t.give(op.outputs[0], a[:-1])


def multiplies_and_adds(t: Context, op: Op) -> None:
    """addmm, baddbmm: the addend writes what the product writes."""
    axes = _product(t, op.args[1], op.args[2])
    addend = op.args[0]
    for i, axis in enumerate(reversed(t.axes(addend)), start=1):
        if resolve(axis).size != 1:
            t.tie(axis, axes[-i])
    t.use(addend, "write")
    t.give(op.outputs[0], axes)


def convolves(t: Context, op: Op) -> None:
    """Channels are [groups x inside]; each group reads only its slice."""
    x, weight, bias = op.args[:3]
    transposed, groups = op.args[6], op.args[8]
    spatial = weight.dim() - 2
    channels, kernel = t.axes(x)[-spatial - 1], t.axes(weight)
    try:
        outer, inside = divide(channels, groups)
    except Misfit:
        raise Misfit(f"{groups} convolution groups over channels made of {channels!r}") from None
    if transposed:
        t.tie(channels, kernel[0])
        out = product([outer, kernel[1]])
        t.contract(inside if groups > 1 else channels, x, weight, kernel[0])
        if groups > 1:  # one dimension holds the groups and what each of them reads
            t.mixed(outer, "the groups of a transposed convolution")
    else:
        t.tie(inside, kernel[1])
        out_groups, made = divide(kernel[0], groups)
        t.tie(outer, out_groups)
        out = kernel[0]
        if groups > 1 and resolve(made).size == 1 and resolve(inside).size == 1:
            t.use(weight, "follow", [kernel[0]])  # depthwise: one filter per channel
        else:
            t.contract(inside, x, weight, kernel[1])
    if groups > 1:
        t.attribute("groups", outer)
    if bias is not None:
        t.tie(out, t.axes(bias)[0])
        t.use(bias, "write")
    size = t.shape(op.outputs[0])[-spatial:]
    positions = [t.fixed(n, "a position") for n in size]
    for axis in (*kernel[2:], *t.axes(x)[-spatial:]):
        t.fix(axis, "a position")
    t.give(op.outputs[0], [*t.axes(x)[: -spatial - 1], out, *positions])


def multiplies_three(t: Context, op: Op) -> None:
    """_trilinear, as nn.Bilinear calls it: x (B, i), weight (o, i, j), y (B, j) -> (B, o)."""
    tensors, expansions = op.args[:3], op.args[3:6]
    weight = tensors[1]
    if t.stored(weight) is None or any(t.stored(x) is not None for x in (tensors[0], tensors[2])):
        raise Misfit(f"no rule for {op.name} of these")
    expanded = []
    for x, dims in zip(tensors, expansions, strict=True):
        axes: list[Axis | None] = list(t.axes(x))
        for dim in sorted(dims):
            axes.insert(dim, None)
        expanded.append(axes)
    out: list[Axis] = []
    for dim, along in enumerate(zip(*expanded, strict=True)):
        present = [axis for axis in along if axis is not None]
        for axis in present[1:]:
            t.tie(present[0], axis)
        own = expanded[1][dim]
        summed = dim in op.args[6]
        if own is not None:
            t.use(weight, "read" if summed else "write", [own])
        if not summed:
            out.append(present[0])
    t.give(op.outputs[0], out)


def looks_up(t: Context, op: Op) -> None:
    """embedding: rows are picked, columns are written."""
    table, index = op.args[:2]
    t.fix(t.axes(table)[0], "the entries of an embedding")
    t.use(table, "write")
    t.give(op.outputs[0], [*t.axes(index), t.axes(table)[1]])


TABLE: Table = (
    dict.fromkeys(("mm", "bmm"), multiplies)
    | dict.fromkeys(("mv", "dot"), multiplies_a_vector)
    | dict.fromkeys(("addmm", "baddbmm"), multiplies_and_adds)
    | dict.fromkeys(("convolution", "_convolution", "convolution_overrideable"), convolves)
    | {"embedding": looks_up, "_trilinear": multiplies_three}
)
