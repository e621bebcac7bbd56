"""What some operations give while a model is recorded.

Random ones give their mean, so that runs can be compared. On fake tensors, where only shapes
matter, those that torch takes apart into many others give their shapes at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format


def _filled(value: Callable[..., Any]) -> Callable[..., Any]:
    """A settled random fill: every entry is the distribution's mean."""
    return lambda _, x, *args, **kwargs: x.fill_(value(*args, **kwargs))


def _dropout(_: object, x: Tensor, p: float, train: bool | None) -> tuple[Tensor, Tensor]:
    return x.clone(), torch.ones_like(x, dtype=torch.bool)


def _rrelu(
    _: object, x: Tensor, noise: Tensor, low: float = 1 / 8, high: float = 1 / 3, *rest: object
) -> Tensor:
    return torch.nn.functional.leaky_relu(x, (low + high) / 2)


def _made(value: float) -> Callable[..., Any]:
    return lambda func, *args, **kwargs: func(*args, **kwargs).fill_(value)


# What the random operations give while functions are compared (by name of the operation).
SETTLED: dict[str, Callable[..., Any]] = {
    "bernoulli_": _filled(lambda p=0.5, **_: p),
    "bernoulli": lambda _, x, p=None, **__: x.clone() if p is None else torch.full_like(x, p),
    "uniform_": _filled(lambda low=0.0, high=1.0, **_: (low + high) / 2),
    "normal_": _filled(lambda mean=0.0, std=1.0, **_: mean),
    "native_dropout": _dropout,
    "rrelu_with_noise": _rrelu,
    "rand": _made(0.5),
    "rand_like": _made(0.5),
    "randn": _made(0.0),
    "randn_like": _made(0.0),
}


def _normed(
    _: object, x: Tensor, weight: object, bias: object, mean: object, var: object, training: bool,
    *rest: object,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    saved = x.shape[1] if training or x.device.type != "cpu" else 0
    out = torch.empty_like(x, memory_format=suggest_memory_format(x))  # as the kernels do
    return out, x.new_empty((saved,)), x.new_empty((saved,))


# What operations give on fake tensors (by name). Their sizes were checked before they are reached.
SHAPED: dict[str, Callable[..., Any]] = {"native_batch_norm": _normed}
