"""Operations that move, split, join or repeat entries without changing them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gnomon.axes import Axis, Misfit, concatenation, divide, product, regroup, resolve, split
from gnomon.ops.context import Context, Op, Table, broadcast
from gnomon.ops.names import PICKS, RESHAPES, SPLITS


def position(dim: int, rank: int) -> int:
    """A dimension counted from the front."""
    return dim % rank if rank else 0


def is_viewed(t: Context, op: Op) -> None:
    """view, reshape, unflatten: the same entries in row-major order under another shape."""
    x, y = op.args[0], op.outputs[0]
    try:
        axes = regroup(t.axes(x), list(t.shape(y)))
    except (Misfit, IndexError):
        axes = _outside_of_a_cut(t, t.axes(x), t.shape(y))
    t.give(y, axes)
    t.views(y, x)


def _outside_of_a_cut(t: Context, own: Sequence[Axis], sizes: Sequence[int]) -> list[Axis]:
    """First and last dimensions of the same sizes stay what they are; what is between is mixed."""
    pairs = list(zip((resolve(a).size for a in own), sizes, strict=False))
    head = next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))
    ends = zip((resolve(a).size for a in reversed(own)), reversed(sizes), strict=False)
    tail = next((i for i, (a, b) in enumerate(ends) if a != b), len(pairs))
    tail = min(tail, len(own) - head, len(sizes) - head)
    made = [Axis(size) for size in sizes[head : len(sizes) - tail]]
    for axis in (*own[head : len(own) - tail], *made):
        t.mixed(axis, "a reshape that cuts across it")
    return [*own[:head], *made, *own[len(own) - tail :]]


def _rearranged(t: Context, op: Op, axes: Sequence[Axis]) -> None:
    t.give(op.outputs[0], axes)
    t.views(op.outputs[0], op.args[0])


def is_transposed(t: Context, op: Op) -> None:
    """t."""
    _rearranged(t, op, t.axes(op.args[0])[::-1])


def swaps_two(t: Context, op: Op) -> None:
    """transpose."""
    axes = list(t.axes(op.args[0]))
    i, j = (position(d, len(axes)) for d in op.args[1:3])
    axes[i], axes[j] = axes[j], axes[i]
    _rearranged(t, op, axes)


def is_permuted(t: Context, op: Op) -> None:
    """permute."""
    axes = t.axes(op.args[0])
    _rearranged(t, op, [axes[d] for d in op.args[1]])


def gains_a_dimension(t: Context, op: Op) -> None:
    """unsqueeze."""
    axes = list(t.axes(op.args[0]))
    axes.insert(position(op.args[1], len(axes) + 1), Axis(1))
    _rearranged(t, op, axes)


def loses_dimensions(t: Context, op: Op) -> None:
    """squeeze, of all or of given dimensions."""
    x = op.args[0]
    dims = op.args[1] if len(op.args) > 1 else range(len(t.axes(x)))
    dims = [dims] if isinstance(dims, int) else dims
    gone = {position(d, len(t.axes(x))) for d in dims}
    kept = [a for i, a in enumerate(t.axes(x)) if not (i in gone and resolve(a).size == 1)]
    _rearranged(t, op, kept)


def is_expanded(t: Context, op: Op) -> None:
    """expand: new axes are copies, free to take any width."""
    y = op.outputs[0]
    own: list[Axis | None] = list(t.axes(op.args[0]))
    own = [*[None] * (y.dim() - len(own)), *own]
    pairs = zip(own, t.shape(y), strict=True)
    axes = [a if a is not None and resolve(a).size == n else Axis(n) for a, n in pairs]
    _rearranged(t, op, axes)


def is_repeated(t: Context, op: Op) -> None:
    """repeat: [times x axis]."""
    y, times = op.outputs[0], op.args[1]
    own = list(t.axes(op.args[0]))
    own = [Axis(1)] * (y.dim() - len(own)) + own
    axes = [a if r == 1 else product([Axis(r), a]) for a, r in zip(own, times, strict=True)]
    t.give(y, axes)


def is_joined(t: Context, op: Op) -> None:
    """cat: a sum along one dimension."""
    tensors = [x for x in op.args[0] if x.numel()] or op.args[0]
    dim = position(op.argument(1, "dim", 0), tensors[0].dim())
    axes = list(t.axes(tensors[0]))
    for x in tensors[1:]:
        for i, axis in enumerate(t.axes(x)):
            if i != dim:
                t.tie(axes[i], axis)
    axes[dim] = concatenation([t.axes(x)[dim] for x in tensors])
    for x in tensors:
        t.use(x, "write")
    t.give(op.outputs[0], axes)


def is_stacked(t: Context, op: Op) -> None:
    """stack: a new dimension whose entries are told apart."""
    tensors = op.args[0]
    axes = broadcast(t, tensors)
    new = t.fixed(len(tensors), "a stack")
    axes.insert(position(op.argument(1, "dim", 0), len(axes) + 1), new)
    for x in tensors:
        t.use(x, "write")
    t.give(op.outputs[0], axes)


def segment_axes(t: Context, axis: Axis, sizes: Sequence[int]) -> list[Axis]:
    """The segments of an axis, or frozen ones if a boundary cuts across it."""
    try:
        return split(axis, sizes)
    except Misfit:
        parts = [Axis(size) for size in sizes]
        for part in (axis, *parts):
            t.mixed(part, "a split that cuts across it")
        return parts


def is_split(t: Context, op: Op) -> None:
    """split, chunk: segments along one dimension."""
    x = op.args[0]
    dim = position(op.argument(2, "dim", 0), len(t.axes(x)))
    sizes = [t.shape(y)[dim] for y in op.outputs]
    parts = segment_axes(t, t.axes(x)[dim], sizes)
    if isinstance(op.argument(1, "split_size"), int) and len(set(sizes)) == 1:
        for part in parts[1:]:  # chunk(n): the parts are cut alike, so they grow alike
            t.tie(parts[0], part)
    for output, part in zip(op.outputs, parts, strict=True):
        axes = list(t.axes(x))
        axes[dim] = part
        t.give(output, axes)
        t.views(output, x)


def is_sliced(t: Context, op: Op) -> None:
    """slice: one segment; with a step, nothing along that dimension may grow."""
    x, y = op.args[0], op.outputs[0]
    dim = position(op.argument(1, "dim", 0) or 0, len(t.axes(x)))
    start, step = op.argument(2, "start") or 0, op.argument(4, "step", 1)
    size, taken = t.shape(x)[dim], t.shape(y)[dim]
    axes = list(t.axes(x))
    if step != 1:
        t.mixed(axes[dim], "a slice with a step")
        axes[dim] = Axis(taken)
        t.mixed(axes[dim], "a slice with a step")
    elif taken != size:
        start = min(max(start + size if start < 0 else start, 0), size)
        axes[dim] = _cut(t, axes[dim], start, taken, size)
    t.give(y, axes)
    t.views(y, x)


def _cut(t: Context, axis: Axis, start: int, taken: int, size: int) -> Axis:
    if not taken:
        return Axis(0)
    sizes = [start, taken, size - start - taken]
    parts = segment_axes(t, axis, [n for n in sizes if n])
    return parts[1 if start else 0]


def picks_one(t: Context, op: Op) -> None:
    """select, unbind: entries told apart by index."""
    x = op.args[0]
    axes = list(t.axes(x))
    picked = axes.pop(position(op.argument(1, "dim", 0), len(t.axes(x))))
    t.fix(picked, "picked by index")
    for output in op.outputs:
        t.give(output, list(axes))
        t.views(output, x)


def is_padded(t: Context, op: Op) -> None:
    """constant_pad_nd: zeros around; a negative amount cuts."""
    x, amounts = op.args[:2]
    axes = list(t.axes(x))
    for i in range(len(amounts) // 2):
        dim, (left, right) = len(t.axes(x)) - 1 - i, amounts[2 * i : 2 * i + 2]
        if min(left, right) < 0:
            cut = max(-left, 0), max(-right, 0)
            size = t.shape(x)[dim]
            axes[dim] = _cut(t, axes[dim], cut[0], size - sum(cut), size)
        around = [t.fixed(max(n, 0), "padding") for n in (left, right)]
        axes[dim] = concatenation([around[0], axes[dim], around[1]])
    t.give(op.outputs[0], axes)


def is_indexed(t: Context, op: Op) -> None:
    """index, index_select: rows picked by a tensor of integers."""
    x: Tensor = op.args[0]
    index: list[Any]
    if op.name == "index":
        index = list(op.args[1])
    else:
        index = [None] * position(op.args[1], len(t.axes(x))) + [op.args[2]]
    at = [i for i, chosen in enumerate(index) if chosen is not None]
    axes = t.axes(x)
    for i in at:
        t.fix(axes[i], "picked by index")
    if any(index[i].dtype in (torch.bool, torch.uint8) for i in at):
        if len(at) > 1 or at[0] != 0:
            raise Misfit("an index by mask behind other dimensions")
        t.use(x, "write")
        masked = len(t.axes(index[0]))
        for axis in axes[:masked]:
            t.fix(axis, "picked by mask")
        first = t.fixed(t.shape(op.outputs[0])[0], "picked by mask")
        t.give(op.outputs[0], [first, *axes[masked:]])
        return
    chosen = broadcast(t, [index[i] for i in at])
    rest = [axis for i, axis in enumerate(axes) if i not in at]
    front = at[0] if at == list(range(at[0], at[-1] + 1)) else 0
    if at == [0] and len(axes) > 2:  # matrices of a stack
        t.picks(op.outputs[0], x)
    else:
        t.use(x, "write")
    t.give(op.outputs[0], [*rest[:front], *chosen, *rest[front:]])


def rows_are_collected(t: Context, op: Op) -> None:
    """index_add, scatter_add, gather: positions of one dimension move, the others pass."""
    tensors = [x for x in op.tensors() if len(t.axes(x)) == len(t.axes(op.args[0]))]
    dim = position(op.argument(1, "dim", 0), len(t.axes(op.args[0])))
    for x in tensors:
        t.fix(t.axes(x)[dim], f"{op.name} over the axis")
        for i, axis in enumerate(t.axes(x)):
            if i != dim:
                t.tie(axis, t.axes(tensors[0])[i])
    axes = list(t.axes(tensors[0]))
    axes[dim] = t.fixed(t.shape(op.outputs[0])[dim], f"{op.name} over the axis")
    t.give(op.outputs[0], axes)


def halves_are_gated(t: Context, op: Op) -> None:
    """glu: one half times the sigmoid of the other, so both halves keep one width."""
    x = op.args[0]
    dim = position(op.argument(1, "dim", -1), len(t.axes(x)))
    axes = list(t.axes(x))
    size = t.shape(x)[dim] // 2
    left, right = segment_axes(t, axes[dim], [size, size])
    t.tie(left, right)
    axes[dim] = left
    t.give(op.outputs[0], axes)


def shuffles_pixels(t: Context, op: Op) -> None:
    """pixel_shuffle: channels [C x r*r] become C channels at r*r positions."""
    x, y = op.args[0], op.outputs[0]
    axes = t.axes(x)
    channels, block = divide(axes[-3], t.shape(y)[-3])
    _fix_positions(t, [block, *axes[-2:]])
    t.give(y, [*axes[:-3], channels, *[t.fixed(n, "a position") for n in t.shape(y)[-2:]]])


def gathers_pixels(t: Context, op: Op) -> None:
    """pixel_unshuffle: C channels become [C x r*r]."""
    x, y = op.args[0], op.outputs[0]
    axes = t.axes(x)
    block = t.fixed(t.shape(y)[-3] // t.shape(x)[-3], "a position")
    _fix_positions(t, axes[-2:])
    positions = [t.fixed(n, "a position") for n in t.shape(y)[-2:]]
    t.give(y, [*axes[:-3], product([axes[-3], block]), *positions])


def shuffles_channels(t: Context, op: Op) -> None:
    """channel_shuffle: [groups x inside] becomes [inside x groups]."""
    axes = list(t.axes(op.args[0]))
    outer, inside = divide(axes[1], op.args[1])
    t.attribute("groups", outer)
    axes[1] = product([inside, outer])
    t.give(op.outputs[0], axes)


def unfolds(t: Context, op: Op) -> None:
    """im2col: [channels x kernel], positions."""
    x, y = op.args[0], op.outputs[0]
    axes = t.axes(x)
    kernel = t.fixed(t.shape(y)[1] // t.shape(x)[1], "a position")
    _fix_positions(t, axes[2:])
    t.give(y, [axes[0], product([axes[1], kernel]), t.fixed(t.shape(y)[2], "a position")])


def folds(t: Context, op: Op) -> None:
    """col2im."""
    x, y = op.args[0], op.outputs[0]
    axes = t.axes(x)
    channels, kernel = divide(axes[1], t.shape(y)[1])
    _fix_positions(t, [kernel, axes[2]])
    t.give(y, [axes[0], channels, *[t.fixed(n, "a position") for n in t.shape(y)[2:]]])


def gains_two_parts(t: Context, op: Op) -> None:
    """view_as_real: a last dimension of real and imaginary parts."""
    _rearranged(t, op, [*t.axes(op.args[0]), t.fixed(2, "real and imaginary parts")])


def joins_two_parts(t: Context, op: Op) -> None:
    """view_as_complex."""
    *axes, parts = t.axes(op.args[0])
    t.fix(parts, "real and imaginary parts")
    _rearranged(t, op, axes)


def _fix_positions(t: Context, axes: Sequence[Axis]) -> None:
    for axis in axes:
        t.fix(axis, "a position")


TABLE: Table = (
    dict.fromkeys(RESHAPES, is_viewed)
    | dict.fromkeys(("t", "t_"), is_transposed)
    | dict.fromkeys(("transpose", "transpose_"), swaps_two)
    | dict.fromkeys(("unsqueeze", "unsqueeze_"), gains_a_dimension)
    | dict.fromkeys(("squeeze", "squeeze_"), loses_dimensions)
    | dict.fromkeys(PICKS, picks_one)
    | dict.fromkeys(("index", "index_select"), is_indexed)
    | dict.fromkeys(SPLITS, is_split)
    | dict.fromkeys(
        ("index_add", "index_add_", "scatter_add", "scatter_add_", "gather"), rows_are_collected
    )
    | {
        "view_as_real": gains_two_parts,
        "view_as_complex": joins_two_parts,
        "permute": is_permuted,
        "expand": is_expanded,
        "repeat": is_repeated,
        "cat": is_joined,
        "stack": is_stacked,
        "slice": is_sliced,
        "constant_pad_nd": is_padded,
        "glu": halves_are_gated,
        "pixel_shuffle": shuffles_pixels,
        "pixel_unshuffle": gathers_pixels,
        "channel_shuffle": shuffles_channels,
        "native_channel_shuffle": shuffles_channels,
        "im2col": unfolds,
        "col2im": folds,
    }
)
