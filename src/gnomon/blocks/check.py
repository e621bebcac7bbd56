"""What an R2R block can be built of: sizes, norms and activations that leave twins equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

FORMS = ("parallel", "concatenated")

NORMS: Mapping[int, tuple[type[nn.Module], ...]] = {  # that act per channel, by dims
    0: (nn.BatchNorm1d,),
    1: (nn.BatchNorm1d, nn.InstanceNorm1d),
    2: (nn.BatchNorm2d, nn.InstanceNorm2d),
    3: (nn.BatchNorm3d, nn.InstanceNorm3d),
}


def check_arguments(
    *,
    inputs: int = 1,
    outputs: int = 1,
    dims: int = 2,
    stride: int = 1,
    norm: type[nn.Module] | None = None,
    activation: type[nn.Module] | None = None,
    twins: int = 2,
    form: str = "parallel",
) -> None:
    """Raise ValueError for what an R2R block cannot be built with."""
    if min(inputs, outputs, stride) < 1:
        raise ValueError(f"inputs {inputs}, outputs {outputs}, stride {stride}: must be 1 or more")
    if dims not in NORMS or (not dims and stride > 1):
        raise ValueError(
            f"dims {dims}, stride {stride}: dims are 0 to 3; 0, a Linear, has stride 1"
        )
    if not 2 <= twins <= 5:  # more of them do not sum to zero exactly in bfloat16
        raise ValueError(f"twins={twins}: tuples of 2 to 5 channels can cancel exactly")
    if form not in FORMS:
        raise ValueError(f"there is no form {form!r}: it is one of {', '.join(FORMS)}, or native")
    if norm is not None and norm not in NORMS[dims]:
        names = ", ".join(f"nn.{n.__name__}" for n in NORMS[dims])
        raise ValueError(
            f"norm={_name(norm)} cannot stand in an R2R block of {dims} dims: it must act on each "
            f"channel by itself and be a class: {names} or None"
        )
    if activation is not None:
        _check_activation(activation, dims)


def per_block(
    hidden: int | Sequence[int],
    kernel_size: int | Sequence[int],
    out_kernel_size: int | Sequence[int],
    dims: int,
) -> list[tuple[int, int, int]]:
    """(hidden, kernel_size, out_kernel_size) of each block.

    Raises ValueError for too few channels, even kernels and lists of different lengths.
    """
    hidden = (hidden,) if isinstance(hidden, int) else tuple(hidden)
    kernels = _repeated(kernel_size, len(hidden)), _repeated(out_kernel_size, len(hidden))
    if not hidden or min(hidden) < 2:
        raise ValueError(f"hidden={hidden}: every block needs two channels or more, which cancel")
    if {len(kernels[0]), len(kernels[1])} != {len(hidden)}:
        raise ValueError(
            f"{len(hidden)} blocks (hidden={hidden}) cannot have kernel_size={kernels[0]} and "
            f"out_kernel_size={kernels[1]}: give one number, or one for each block"
        )
    for size in kernels[0] + kernels[1]:
        if size < 1 or size % 2 == 0 or (size > 1 and not dims):
            raise ValueError(f"kernel {size} at {dims} dims: kernels are odd, and 1 for a Linear")
    return list(zip(hidden, *kernels, strict=True))


def _repeated(size: int | Sequence[int], count: int) -> tuple[int, ...]:
    return (size,) * count if isinstance(size, int) else tuple(size)


def _check_activation(activation: type[nn.Module], dims: int) -> None:
    """Try it: whatever class it is, twins must stay equal and blocks must not see each other."""
    if not (isinstance(activation, type) and issubclass(activation, nn.Module)):
        raise ValueError(f"activation={_name(activation)}: give a class such as nn.ReLU")
    x = torch.linspace(-2, 2, 24 * 2**dims, dtype=torch.float32, device="cpu")
    x = x.reshape(4, 6, *[2] * dims)
    with torch.device("cpu"), torch.no_grad(), torch.random.fork_rng(devices=[]):
        alike = _acts_per_channel(activation().float(), x)
    if not alike:
        raise ValueError(
            f"activation={_name(activation)} does not act on each channel by itself, or not twice "
            f"alike: twins would not stay equal. Use one such as nn.ReLU or nn.GELU"
        )


def _acts_per_channel(module: nn.Module, x: Tensor) -> bool:
    whole = module(x.clone())
    if whole.shape != x.shape or not torch.allclose(whole, module(x.clone())):
        return False
    alone = torch.cat([module(channel.clone()) for channel in torch.split(x, 1, dim=1)], dim=1)
    return torch.allclose(whole, alone, rtol=1e-5, atol=1e-6)


def _name(value: object) -> str:
    return value.__name__ if isinstance(value, type) else repr(value)
