"""Normalisation: per channel (batch, instance), over channels (layer, RMS), in groups."""

from __future__ import annotations

from torch import Tensor

from gnomon.axes import Axis, Misfit, divide, factors, product
from gnomon.ops.context import Context, Op, Table


def normalises_each_channel(t: Context, op: Op) -> None:
    """batch_norm: affine and statistics follow; instance_norm arrives as [batch x channels]."""
    x = op.args[0]
    axes = t.axes(x)
    for position, parameter in enumerate(op.args[1:5]):
        if isinstance(parameter, Tensor):
            t.tie(axes[1], t.axes(parameter)[0])
            t.use(parameter, "follow", fill="mean" if position < 2 else "statistic")
    for axis in (axes[0], *axes[2:]):
        t.fix(axis, "a position")
    t.no_zeros([axes[1]], op.name)
    t.attribute("num_features", axes[1])
    t.attribute("num_features", product(factors(axes[1])[1:]))  # [batch x channels]
    t.give(op.outputs[0], list(axes))
    for extra in op.outputs[1:]:
        t.give(extra, [axes[1]] if t.shape(extra) == t.shape(x)[1:2] else _unknown(op, extra))


def normalises_over_channels(t: Context, op: Op) -> None:
    """layer_norm, rms_norm over the trailing dimensions."""
    x, shape = op.args[:2]
    axes, k = t.axes(x), len(shape)
    label = "LayerNorm" if op.name == "native_layer_norm" else "RMSNorm"
    for axis in axes[-k:]:
        t.uniform(axis, label)
    for parameter in op.args[2:4]:
        if isinstance(parameter, Tensor):
            for a, b in zip(t.axes(parameter), axes[-k:], strict=True):
                t.tie(a, b)
            t.use(parameter, "follow", fill="mean")
    t.give(op.outputs[0], list(axes))
    for extra in op.outputs[1:]:
        one = [*axes[:-k], *[Axis(1)] * k]
        t.give(extra, one if extra.dim() == len(axes) else _unknown(op, extra))


def normalises_groups(t: Context, op: Op) -> None:
    """group_norm: whole groups are free, the channels inside one are averaged."""
    x, weight, bias, batch, _, _, groups = op.args[:7]
    axes = t.axes(x)
    for parameter in (weight, bias):
        if parameter is not None:
            t.tie(axes[1], t.axes(parameter)[0])
            t.use(parameter, "follow", fill="mean")
    outer, inside = divide(axes[1], groups)
    t.uniform(inside, "GroupNorm")
    t.attribute("num_groups", outer)
    for axis in axes[2:]:
        t.fix(axis, "a position")
    t.no_zeros([axes[1]], op.name)
    t.give(op.outputs[0], list(axes))
    for extra in op.outputs[1:]:
        fits = t.shape(extra) == (batch, groups)
        t.give(extra, [axes[0], outer] if fits else _unknown(op, extra))


def rescales_weights(t: Context, op: Op) -> None:
    """weight_norm: each slice along one dimension has its own norm; the rest is mixed."""
    v, g = op.args[:2]
    dim, axes = op.argument(2, "dim", 0), t.axes(v)
    t.tie(axes[dim], t.axes(g)[dim])
    t.use(v, "write", [axes[dim]])
    t.use(g, "write", [t.axes(g)[dim]])
    for i, axis in enumerate(axes):
        if i != dim:
            t.mixed(axis, "weight_norm over the axis")
    t.give(op.outputs[0], list(axes))
    t.give(op.outputs[1], [axis if i == dim else Axis(1) for i, axis in enumerate(axes)])


def _unknown(op: Op, tensor: Tensor) -> list[Axis]:
    if tensor.numel():
        raise Misfit(f"an output of {op.name} with shape {tuple(tensor.shape)}")
    return [Axis(size) for size in tensor.shape]


_BATCH_NORMS = (
    "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training "
    "cudnn_batch_norm miopen_batch_norm _batch_norm_no_update _batch_norm_with_update"
).split()

TABLE: Table = dict.fromkeys(_BATCH_NORMS, normalises_each_channel) | {
    "native_layer_norm": normalises_over_channels,
    "_fused_rms_norm": normalises_over_channels,
    "native_group_norm": normalises_groups,
    "_weight_norm_interface": rescales_weights,
}
