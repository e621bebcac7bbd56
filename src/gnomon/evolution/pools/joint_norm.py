"""BatchNorm over the whole batch, where each of several processes holds a part of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import batch_norm
from torch.overrides import TorchFunctionMode

Sum = Callable[[Tensor], Tensor]  # of a tensor over all processes, a new one


class JointNorms(TorchFunctionMode):
    """While it is entered, every BatchNorm in train mode sees what all processes hold.

        process 1   x1 ─┐ mean, variance of [x1; x2] ┌─ y1
        process 2   x2 ─┘                            └─ y2

    So the result does not depend on how many processes there are, and running statistics stay
    alike. `nn.SyncBatchNorm` does it on GPUs only, and would have to replace the user's modules.
    """

    def __init__(self, total: Sum) -> None:
        super().__init__()
        self._total = total

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is batch_norm:
            return self._norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _norm(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        """The arguments are those of `torch.nn.functional.batch_norm`."""
        if not training:
            return batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
        x = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        over = [d for d in range(x.dim()) if d != 1]
        own = torch.full((1,), x.numel() / x.shape[1], dtype=x.dtype, device=x.device)
        totals = Total.of(torch.cat([x.sum(over), own]), self._total)
        count = totals[-1].detach()
        mean = totals[:-1] / count
        centred = x - _channels(mean, x)
        variance = Total.of(centred.square().sum(over), self._total) / count
        y = centred * _channels((variance + eps).rsqrt(), x)
        with torch.no_grad():
            _follow(running_mean, mean, momentum)
            _follow(running_var, variance * (count / (count - 1).clamp(min=1)), momentum)
        y = y if weight is None else y * _channels(weight, x)
        y = y if bias is None else y + _channels(bias, x)
        return y.to(input.dtype)


def _channels(values: Tensor, like: Tensor) -> Tensor:
    """(C,) beside (N, C, ...)."""
    return values.to(like.dtype).view(1, -1, *[1] * (like.dim() - 2))


def _follow(running: Tensor | None, value: Tensor, momentum: float) -> None:
    if running is not None:
        running.lerp_(value.to(running.dtype), momentum)


class Total(torch.autograd.Function):
    """A sum over processes; what flows back is summed over them too."""

    @staticmethod
    def of(x: Tensor, total: Sum) -> Tensor:
        """Of a tensor of the same shape in each of them."""
        summed: Tensor = Total.apply(x, total)  # type: ignore[no-untyped-call]
        return summed

    @staticmethod
    def forward(ctx: Any, x: Tensor, total: Sum) -> Tensor:
        """Sum."""
        ctx.total = total
        return total(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Each process's loss depends on what all of them put in."""
        return ctx.total(gradients[0]), None
