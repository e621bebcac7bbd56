"""One branch of an R2R block: hidden channels in twins, read with weights that cancel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gnomon.embedding import monomial, signal_sums
from gnomon.rules.base import on_grid

Convolution = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d

# By the number of dims.
CONVOLUTIONS: tuple[Any, ...] = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Branch(nn.Module):
    """conv2(activation(norm1(conv1(x)))), zero at the start and alive.

        conv1   U U | U' U' | ...        conv2   +b -b | +b' -b' | ...

    Twins stand side by side: their products then nearly cancel before they meet others, and the
    fused sum rounds six times better. conv1 has no bias in front of a norm, which would take it
    away again. The repeated weights are only a start: they part at the first step.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        hidden: int,
        *,
        kernel_size: int,
        out_kernel_size: int,
        dims: int,
        stride: int,
        norm: type[nn.Module] | None,
        activation: type[nn.Module],
        twins: int,
        bias: bool,
    ) -> None:
        super().__init__()
        self.conv1 = convolution(
            dims, inputs, hidden, kernel_size, stride=stride, bias=norm is None
        )
        self.norm1 = nn.Identity() if norm is None else norm(hidden)
        self.activation = activation()
        self.conv2 = convolution(dims, hidden, outputs, out_kernel_size, bias=bias)
        _start_at_zero(self.conv1, self.conv2, _signals(hidden, twins))

    def forward(self, x: Tensor) -> Tensor:
        """Return conv2(activation(norm1(conv1(x))))."""
        y: Tensor = self.conv2(self.activate(self.conv1(x)))
        return y

    def activate(self, hidden: Tensor) -> Tensor:
        """Return activation(norm1(hidden))."""
        y: Tensor = self.activation(self.norm1(hidden))
        return y


def convolution(
    dims: int, inputs: int, outputs: int, kernel_size: int, *, stride: int = 1, bias: bool
) -> Convolution:
    """A convolution of an odd kernel that keeps the size of its input; without dims, a Linear."""
    if not dims:
        return nn.Linear(inputs, outputs, bias=bias)
    layer: Convolution = CONVOLUTIONS[dims](
        inputs, outputs, kernel_size, stride=stride, padding=kernel_size // 2, bias=bias
    )
    return layer


def kernel_size(weight: Tensor) -> int:
    """The kernel's side: 1 for a matrix."""
    return weight.shape[-1] if weight.dim() > 2 else 1


def _signals(hidden: int, twins: int) -> Tensor:
    """(hidden,) the signal that each channel carries: as even as possible, never alone."""
    count = min(-(-hidden // twins), hidden // 2)
    sizes = [hidden // count + (i < hidden % count) for i in range(count)]
    return torch.arange(count, device="cpu").repeat_interleave(torch.tensor(sizes, device="cpu"))


@torch.no_grad()
def _start_at_zero(writer: Convolution, reader: Convolution, signals: Tensor) -> None:
    if reader.weight.is_meta:
        return
    first = torch.searchsorted(signals, signals).to(writer.weight.device)
    for parameter in writer.parameters():
        parameter.copy_(parameter[first])
    with torch.device("cpu"):
        reader.weight.copy_(_cancelling(reader.weight.cpu(), signals))
    if reader.bias is not None:
        reader.bias.zero_()


def _cancelling(weight: Tensor, signals: Tensor) -> Tensor:
    """Readers that sum to zero over each signal, exactly in every dtype, as spread as `weight`.

    weight: (O, N, ...) independent entries. A projection of k of them on sum zero shrinks their
    spread by sqrt((k-1)/k), which is made good.
    """
    e = monomial(signals, 0, int(signals[-1]) + 1)
    copies = e.copies[signals][:, None]
    columns = weight.double().reshape(*weight.shape[:2], -1)
    z = columns - signal_sums(columns, e)[:, signals] / copies
    z *= (copies / (copies - 1)).sqrt()
    z = torch.where(copies > 2, on_grid(z), z).to(weight.dtype)
    last = e.copies.cumsum(0) - 1
    z[:, last] = 0
    z[:, last] = -signal_sums(z, e)
    return z.reshape(weight.shape)
