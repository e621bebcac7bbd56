"""Mixtures of experts: rows picked, counted, put back, and multiplied by their expert's weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gnomon.axes import Axis, Misfit, divide, resolve
from gnomon.ops.context import Context, Op, Table, broadcast
from gnomon.ops.linear import multiplies
from gnomon.ops.shape import rows_are_collected

_ROW_BYTES = 16  # what the grouped kernel wants the rows of its matrices to be a multiple of


def multiplies_by_group(t: Context, op: Op) -> None:
    """_grouped_mm: rows (S, k) in order of their experts, each by its expert's (k, n) of (E, k, n).

    Raises Misfit for a product over the jagged dimension, and with a bias.
    """
    x, weight = op.args[:2]
    if op.argument(3, "bias") is not None:
        raise Misfit(f"{op.name} with a bias")
    if x.dim() == weight.dim() == 3 and op.argument(2, "offs") is None:
        multiplies(t, op)
        return
    if (x.dim(), weight.dim()) != (2, 3):
        raise Misfit(f"no rule for {op.name} of {x.dim()} by {weight.dim()} dimensions")
    rows, inside = t.axes(x)
    experts, read, made = t.axes(weight)
    t.fix(rows, "the rows of an expert")
    t.fix(experts, "the experts of a mixture")
    t.tie(inside, read)
    t.contract(inside, x, weight, read)
    for axis in (read, made):  # the backward pass has rows of both
        _in_whole_rows(t, axis, _ROW_BYTES // x.element_size())
    t.give(op.outputs[0], [rows, made])


def _in_whole_rows(t: Context, axis: Axis, block: int) -> None:
    """Let an axis grow by blocks only, so that the kernel still takes it."""
    size = resolve(axis).size
    if size == block or size % block:
        return
    try:
        _, block_axis = divide(axis, size // block)
    except Misfit:  # it then grows by one, and a width the kernel refuses is refused with its words
        return
    t.fix(block_axis, f"rows of {_ROW_BYTES} bytes")


def is_counted(t: Context, op: Op) -> None:
    """histc, bincount, nonzero: how many, and where, decides which operations come next."""
    for axis in t.axes(op.args[0]):
        t.mixed(axis, f"{op.name} over the axis")
    for output in op.outputs:
        t.give(output, [t.fixed(n, f"counted by {op.name}") for n in t.shape(output)])


def rows_are_scattered(t: Context, op: Op) -> None:
    """scatter with a number or a tensor: what was there is overwritten, zeros too."""
    rows_are_collected(t, op)
    t.no_zeros(t.axes(op.outputs[0]), op.name)


def rows_are_put(t: Context, op: Op) -> None:
    """index_put: rows picked by integers, or by a mask of the leading dimensions, are set."""
    x, index, values = op.args[:3]
    at = [i for i, chosen in enumerate(index) if chosen is not None]
    axes = t.axes(x)
    if any(index[i].dtype in (torch.bool, torch.uint8) for i in at):
        if at != [0]:
            raise Misfit("an index by mask behind other dimensions")
        at = list(range(index[0].dim()))
        picked = [Axis(1)]
    else:
        picked = broadcast(t, [index[i] for i in at])
    for i in at:
        t.fix(axes[i], "picked by index")
    rest = [axis for i, axis in enumerate(axes) if i not in at]
    front = at[0] if at == list(range(at[0], at[-1] + 1)) else 0
    _tie_rows(t, values, [*rest[:front], *picked, *rest[front:]])
    for tensor in (x, values):
        t.use(tensor, "write")
    if t.is_constant(values) or any(size == 1 for size in _last(t.shape(values), len(rest))):
        t.no_zeros(rest, op.name)
    t.give(op.outputs[0], axes)


def _tie_rows(t: Context, values: Tensor, full: list[Axis]) -> None:
    for own, axis in zip(reversed(t.axes(values)), reversed(full), strict=False):
        if resolve(own).size != 1 and resolve(axis).size != 1:
            t.tie(own, axis)


def _last(shape: tuple[int, ...], n: int) -> tuple[Any, ...]:
    return (1,) * (n - len(shape)) + shape[len(shape) - n :] if n else ()


TABLE: Table = (
    dict.fromkeys(("histc", "bincount", "nonzero"), is_counted)
    | dict.fromkeys(("scatter", "scatter_"), rows_are_scattered)
    | dict.fromkeys(("index_put", "index_put_", "_unsafe_index_put"), rows_are_put)
    | {"_grouped_mm": multiplies_by_group}
)
