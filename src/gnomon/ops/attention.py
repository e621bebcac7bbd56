"""Scaled dot-product attention, whichever kernel the backend picked."""

from __future__ import annotations

from torch import Tensor

from gnomon.axes import Axis, Misfit, product
from gnomon.ops.context import Context, Op, Table


def attends(t: Context, op: Op) -> None:
    """q (B, H, T, d), k (B, H, S, d), v (B, H, S, e) -> (B, H, T, e)."""
    q, k, v = op.args[:3]
    queries, keys, values = (t.axes(x) for x in (q, k, v))
    t.tie(queries[0], keys[0])
    for i in range(3):
        t.tie(keys[i], values[i])
    t.tie(queries[3], keys[3])
    if t.shape(q)[1] == t.shape(k)[1]:
        t.tie(queries[1], keys[1])
    else:
        t.tie(queries[1], product([keys[1], Axis(t.shape(q)[1] // t.shape(k)[1])]))
    t.mixed(queries[3], "a query-key product")
    t.mixed(keys[2], "softmax over the axis")
    mask = op.kwargs.get("attn_mask")
    if isinstance(mask, Tensor):
        full = [queries[0], queries[1], queries[2], keys[2]]
        for i, axis in enumerate(reversed(t.axes(mask)), start=1):
            if t.shape(mask)[-i] != 1:
                t.tie(axis, full[-i])
    t.give(op.outputs[0], [queries[0], queries[1], queries[2], values[3]])
    for extra in op.outputs[1:]:
        if t.shape(extra) == t.shape(q)[:3]:
            t.give(extra, queries[:3])
        elif extra.numel() > 1:
            raise Misfit(f"an output of {op.name} with shape {tuple(t.shape(extra))}")
        else:
            t.give(extra, [Axis(size) for size in t.shape(extra)])


TABLE: Table = dict.fromkeys(
    (
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_attention_math_for_mps",
    ),
    attends,
)
