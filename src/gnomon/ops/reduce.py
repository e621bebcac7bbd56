"""Operations along an axis: pooling, interpolation, mean, sum, extremes, softmax, sorting."""

from __future__ import annotations

from gnomon.axes import Axis, resolve
from gnomon.ops.context import Context, Op, OpRule, Table
from gnomon.ops.shape import position


def moves_positions(t: Context, op: Op) -> None:
    """Pooling, interpolation, reflection: channel by channel over trailing positions."""
    name = op.name
    spatial = 3 if "3d" in name else 1 if "1d" in name else 2
    axes = t.axes(op.args[0])
    for axis in axes[-spatial:]:
        t.fix(axis, "a position")
    for output in op.outputs:
        positions = [t.fixed(size, "a position") for size in t.shape(output)[-spatial:]]
        t.give(output, [*axes[:-spatial], *positions])


def _dims(op: Op, rank: int, at: int) -> list[int]:
    dims = op.argument(at, "dim")
    if dims is None or dims == []:
        return list(range(rank))
    return [position(d, rank) for d in ([dims] if isinstance(dims, int) else dims)]


def _reduces(averaging: bool, at: int = 1) -> OpRule:
    def reduces(t: Context, op: Op) -> None:
        x = op.args[0]
        axes = t.axes(x)
        over = _dims(op, len(t.axes(x)), at)
        averages = averaging and not (op.name in _SPREADS and op.kwargs.get("correction") != 0)
        for dim in over:
            if resolve(axes[dim]).size > 1:
                (t.uniform if averages else t.mixed)(axes[dim], f"{op.name} over the axis")
        rest = [axis for i, axis in enumerate(axes) if i not in over]
        kept = [Axis(1) if i in over else axis for i, axis in enumerate(axes)]
        for output in op.outputs:
            t.give(output, kept if output.dim() == len(t.axes(x)) else rest)

    return reduces


def runs_along(t: Context, op: Op) -> None:
    """softmax, cumsum, sort, flip, roll: the entries of an axis see each other."""
    x = op.args[0]
    axes = t.axes(x)
    if op.name in ("tril", "triu"):
        dims = [len(t.axes(x)) - 2, len(t.axes(x)) - 1]
    elif op.name == "topk":
        dims = [position(op.argument(2, "dim", -1), len(t.axes(x)))]
    else:
        dims = _dims(op, len(t.axes(x)), 2 if op.name == "roll" else 1)
    for dim in dims:
        t.mixed(axes[dim], f"{op.name} over the axis")
    if "softmax" in op.name:  # zeros come out as equal weights; queries and keys of zeros stay so
        t.no_zeros([axis for dim, axis in enumerate(axes) if dim not in dims], op.name)
    for output in op.outputs:
        pairs = zip(axes, t.shape(output), strict=True)
        t.give(output, [a if resolve(a).size == n else t.fixed(n, op.name) for a, n in pairs])


_POSITIONAL = (
    "max_pool1d max_pool2d_with_indices max_pool3d_with_indices avg_pool1d avg_pool2d avg_pool3d "
    "_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d "
    "adaptive_max_pool2d adaptive_max_pool3d fractional_max_pool2d max_unpool2d "
    "upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d "
    "_upsample_nearest_exact2d upsample_linear1d upsample_bilinear2d upsample_bicubic2d "
    "upsample_trilinear3d _upsample_bilinear2d_aa _upsample_bicubic2d_aa reflection_pad1d "
    "reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d "
    "grid_sampler_2d"
).split()
_SPREADS = ("var", "std", "var_mean", "std_mean")  # divided by n - 1 unless told otherwise
_AVERAGES = "mean var var_mean std std_mean amax amin aminmax max min".split()
_SUMS = "median nanmedian mode sum any all argmax argmin prod logsumexp nansum".split()
_ALONG = (
    "_softmax _safe_softmax _log_softmax cumsum cumprod logcumsumexp roll flip sort topk tril triu"
).split()


def is_transformed(t: Context, op: Op) -> None:
    """fft: a linear map of the positions along its dimensions, channel by channel."""
    x, y = op.args[0], op.outputs[0]
    axes = list(t.axes(x))
    for dim in _dims(op, len(axes), 1):
        t.mixed(axes[dim], f"{op.name} over the axis")
        axes[dim] = t.fixed(t.shape(y)[dim], "a frequency or a position")
    t.give(y, axes)


TABLE: Table = (
    dict.fromkeys(("_fft_r2c", "_fft_c2r", "_fft_c2c"), is_transformed)
    | dict.fromkeys(_POSITIONAL, moves_positions)
    | dict.fromkeys(_AVERAGES, _reduces(averaging=True))
    | dict.fromkeys(_SUMS, _reduces(averaging=False))
    | dict.fromkeys(("linalg_vector_norm", "norm", "kthvalue"), _reduces(averaging=False, at=2))
    | dict.fromkeys(_ALONG, runs_along)
)
