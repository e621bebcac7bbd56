"""What stands before a place in a model: the layer that a new block should be like.

Read off the tape, not off class names: the last product with weights before the place, the norm
and the activation that come with it, and the range that its values can have.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from gnomon.analysis.groups import Analysis
from gnomon.axes import leaves, resolve
from gnomon.errors import Unsupported
from gnomon.ops.context import Op
from gnomon.recording.tape import Recording

Range = tuple[float, float]
_ANY: Range = (-math.inf, math.inf)
_POSITIVE: Range = (0.0, math.inf)


@dataclass(frozen=True, eq=False)
class Neighbour:
    """A layer as far as a template needs it.

    spatial: number of spatial dimensions; 0 for a linear layer on the last dimension.
    weight:  the neighbour's own kernel, whose spread new kernels take over.
    """

    spatial: int
    channels: int
    kernel: tuple[int, ...]
    weight: Tensor
    norm: bool
    activation: nn.Module | None


def neighbour(
    analysis: Analysis, recording: Recording, place: int, output: Tensor, inside: int | None = None
) -> Neighbour:
    """The layer whose output arrives at a place: `output`, after the first `place` operations.

    Behind a whole block, of operations [inside, place), the kernel is the largest one in it: that
    of a bottleneck is its 3x3 convolution's, though a 1x1 comes last.
    Raises Unsupported if no layer with weights is found, or its channels are not told apart.
    """
    ops = recording.ops[:place]
    norm, activation = False, None
    for op in _back(ops, output):
        if activation is None:
            activation = activation_of(op)
        norm = norm or ("batch_norm" in op.name)
        if op.name in ("convolution", "addmm", "mm", "bmm"):
            weights = [t for t in op.tensors() if t.dim() > 1 and t is not op.args[0]]
            weight = _stored(ops, _kernel(op, weights))
            if weight is not None:
                if activation is None:
                    activation = next(filter(None, map(activation_of, reversed(ops))), None)
                found = _shaped(analysis, op, weight, output, norm, activation)
                within = recording.ops[inside:place] if inside is not None else []
                return replace(found, kernel=_largest(found.kernel, within))
    raise Unsupported(
        "no linear or convolutional layer stands before it that a new block could be like: give "
        "block=, a module that keeps the shape"
    )


def _stored(ops: list[Op], weight: Tensor | None) -> Tensor | None:
    """What a weight is a view of: linear layers transpose theirs; a fake view has no numbers."""
    for op in reversed(ops):
        if op.name in ("t", "transpose") and any(o is weight for o in op.outputs):
            weight = op.args[0]
    return weight


def _largest(kernel: tuple[int, ...], ops: list[Op]) -> tuple[int, ...]:
    """The largest odd kernel of plain convolutions; in groups it would cost more than there."""
    for op in ops:
        if op.name == "convolution" and not op.args[6] and op.args[8] == 1:
            other = tuple(k - 1 + k % 2 for k in op.args[1].shape[2:])
            if len(other) == len(kernel) and prod(other) > prod(kernel):
                kernel = other
    return kernel


def _kernel(op: Op, weights: list[Tensor]) -> Tensor | None:
    if op.name == "convolution":
        return op.args[1] if isinstance(op.args[1], Tensor) else None
    return weights[-1] if weights else None


def _shaped(
    analysis: Analysis,
    op: Op,
    weight: Tensor,
    output: Tensor,
    norm: bool,
    activation: nn.Module | None,
) -> Neighbour:
    """Where the layer's channels stand in the output decides what kind of block fits there."""
    made = analysis.reading.at_first.made(op)[0]
    channels = made[1] if op.name == "convolution" and len(made) > 2 else made[-1]
    wanted = {resolve(leaf) for leaf in leaves(channels) if resolve(leaf).size > 1}
    axes = analysis.reading.at_first.axes(output)
    where = [
        dim
        for dim, axis in enumerate(axes)
        if wanted & {resolve(leaf) for leaf in leaves(axis)} and dim > 0
    ]
    last = output.dim() - 1
    if where == [last] or output.dim() == 2:
        return Neighbour(0, output.shape[-1], (), weight, norm and last == 1, activation)
    if where == [1] and 3 <= output.dim() <= 5:
        spatial = output.dim() - 2
        kernel = tuple(weight.shape[2:]) if weight.dim() == output.dim() else (1,) * spatial
        odd = tuple(k - 1 + k % 2 for k in kernel)
        return Neighbour(spatial, output.shape[1], odd, weight, norm, activation)
    raise Unsupported(
        f"which dimension of its output {tuple(output.shape)} holds the channels cannot be told: "
        f"give block=, a module that keeps the shape"
    )


def _back(ops: list[Op], output: Tensor) -> Iterator[Op]:
    """The operations that a tensor comes from, nearest first."""
    waiting = {id(output)}
    for op in reversed(ops):
        if waiting & {id(o) for o in op.outputs}:
            yield op
            waiting |= {id(t) for t in op.tensors()}


def activation_of(op: Op) -> nn.Module | None:
    """The module that does what a recorded activation did, or None for any other operation."""
    made = _ACTIVATIONS.get(op.name.rstrip("_"))
    return made(op.args[1:], op.kwargs) if made else None


def _filled(args: tuple[Any, ...], *usual: float) -> list[float]:
    """Arguments, and the usual values of those that were not given."""
    return [float(a) for a in (*args, *usual[len(args) :])]


def _elu(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> nn.Module:
    alpha, scale, inner = _filled(args, 1.0, 1.0, 1.0)
    if scale == 1 and inner == 1:
        return nn.ELU(alpha)
    if scale == 1:
        return nn.CELU(alpha)
    return nn.SELU()


def _hardtanh(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> nn.Module:
    low, high = _filled(args, -1.0, 1.0)
    return nn.ReLU6() if (low, high) == (0, 6) else nn.Hardtanh(low, high)


_ACTIVATIONS: Mapping[str, Callable[[tuple[Any, ...], Mapping[str, Any]], nn.Module]] = {
    "relu": lambda args, kwargs: nn.ReLU(),
    "gelu": lambda args, kwargs: nn.GELU(kwargs.get("approximate", "none")),
    "silu": lambda args, kwargs: nn.SiLU(),
    "tanh": lambda args, kwargs: nn.Tanh(),
    "sigmoid": lambda args, kwargs: nn.Sigmoid(),
    "softplus": lambda args, kwargs: nn.Softplus(*_filled(args, 1.0, 20.0)),
    "hardswish": lambda args, kwargs: nn.Hardswish(),
    "hardsigmoid": lambda args, kwargs: nn.Hardsigmoid(),
    "mish": lambda args, kwargs: nn.Mish(),
    "leaky_relu": lambda args, kwargs: nn.LeakyReLU(_filled(args, 0.01)[0]),
    "_prelu_kernel": lambda args, kwargs: nn.LeakyReLU(0.25),
    "elu": _elu,
    "celu": lambda args, kwargs: nn.CELU(_filled(args, 1.0)[0]),
    "hardtanh": _hardtanh,
    "relu6": lambda args, kwargs: nn.ReLU6(),
    "log_sigmoid_forward": lambda args, kwargs: nn.LogSigmoid(),
    "abs": lambda args, kwargs: nn.Identity(),
}

_RANGES: Mapping[str, Range] = {
    "relu": _POSITIVE,
    "softplus": _POSITIVE,
    "abs": _POSITIVE,
    "exp": _POSITIVE,
    "sigmoid": (0.0, 1.0),
    "hardsigmoid": (0.0, 1.0),
    "_softmax": (0.0, 1.0),
    "relu6": (0.0, 6.0),
    "tanh": (-1.0, 1.0),
}
_KEEP_RANGE = (
    "view _unsafe_view reshape permute transpose t unsqueeze squeeze expand clone slice select "
    "alias detach flatten max_pool1d max_pool2d_with_indices max_pool3d_with_indices mean "
    "_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d amax"
).split()


def range_of(recording: Recording, place: int, output: Tensor) -> Range:
    """An interval that surely holds all values of a tensor of the tape."""
    return _range(recording.ops[:place], output, depth=0)


def _range(ops: list[Op], tensor: Tensor, depth: int) -> Range:
    position = next(
        (i for i in range(len(ops) - 1, -1, -1) if any(o is tensor for o in ops[i].outputs)), None
    )
    if position is None or depth > 100:
        return _ANY
    op, before = ops[position], ops[:position]
    name = op.name.rstrip("_") if op.name != "_softmax" else op.name

    def of(t: object) -> Range:
        return _range(before, t, depth + 1) if isinstance(t, Tensor) else _ANY

    if name in _RANGES:
        return _RANGES[name]
    if name == "hardtanh":
        low, high = _filled(op.args[1:3], -1.0, 1.0)
        return low, high
    if name in _KEEP_RANGE:
        return of(op.args[0])
    if name in ("avg_pool2d", "avg_pool1d", "avg_pool3d", "native_dropout"):
        low, high = of(op.args[0])
        return min(low, 0.0), (math.inf if name == "native_dropout" else max(high, 0.0))
    if name == "add" and op.args[2:] == () and not op.kwargs:
        (a, b), (c, d) = of(op.args[0]), of(op.args[1])
        return a + c, b + d
    if name == "cat":
        ranges = [of(t) for t in op.args[0]]
        return min(r[0] for r in ranges), max(r[1] for r in ranges)
    return _ANY


def is_identity_on(activation: nn.Module, where: Range) -> bool:
    """Whether phi(y) = y on an interval, found by calling it."""
    low, high = max(where[0], -1e4), min(where[1], 1e4)
    inner = torch.linspace(max(low, -16.0), min(high, 16.0), 2001, dtype=torch.float64)
    outer = torch.tensor([low, high, low / 64, high / 64], dtype=torch.float64)
    y = torch.cat([inner, outer]).clamp(low, high)
    return bool((_called(activation, y) == y).all())


def slope_of_odd_part(activation: nn.Module) -> float | None:
    """kappa with phi(x) - phi(-x) = kappa x for all x, or None; found by calling it."""
    x = torch.linspace(-16.0, 16.0, 2001, dtype=torch.float64)
    try:
        odd = _called(activation, x) - _called(activation, -x)
    except Exception:  # whatever foreign code raises on a vector: it does not act per entry
        return None
    kappa = float(odd[-1] / x[-1])
    if abs(kappa) < 1e-3 or float((odd - kappa * x).abs().max()) > 1e-12:
        return None
    return round(kappa, 12) if abs(kappa - round(kappa, 12)) < 1e-14 else kappa


def _called(activation: nn.Module, x: Tensor) -> Tensor:
    """What a copy makes of a vector; one that draws, as dropout, leaves the generator alone."""
    own = copy.deepcopy(activation).to("cpu", torch.float64)
    with torch.no_grad(), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        y: Tensor = own(x.clone())
    return y
