"""A linear or convolutional layer as tensors, and back as a module.

Linear layers have no spatial dimensions; transposed convolutions are seen the other way round.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from gnomon.adding.padding import padding_of
from gnomon.decompose.compose import Sides
from gnomon.errors import Unsupported

Sizes = tuple[int, ...]
_CONV: Mapping[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED: Mapping[int, type[nn.Module]] = {
    1: nn.ConvTranspose1d,
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}
_LAYERS: tuple[type[nn.Module], ...] = (nn.Linear, *_CONV.values(), *_TRANSPOSED.values())
_COMPUTING = ("forward", "_conv_forward", "__call__")
_PADS = {"zeros": "ConstantPad", "constant": "ConstantPad", "reflect": "ReflectionPad"}
_PADS |= {"replicate": "ReplicationPad", "circular": "CircularPad"}


@dataclass(frozen=True, eq=False)
class Layer:
    """A linear or convolutional layer.

    weight: (O, I / groups, *K); of a transposed one too. sides: padding (before, after).
    extra:  output_padding of a transposed convolution, None for others.
    """

    weight: Tensor
    bias: Tensor | None
    sides: Sides = ()
    stride: Sizes = ()
    dilation: Sizes = ()
    groups: int = 1
    mode: str = "zeros"
    extra: Sizes | None = None

    @property
    def kernel(self) -> Sizes:
        """Taps per spatial dimension."""
        return tuple(self.weight.shape[2:])

    @property
    def points(self) -> bool:
        """Whether it looks at one position at a time."""
        return all(k == 1 for k in self.kernel)


def layer_of(module: nn.Module) -> Layer:
    """What a layer of torch.nn holds. Raises Unsupported for any other module."""
    kind = type(module).__name__
    if not isinstance(module, nn.Linear | _ConvNd):
        raise Unsupported(f"a {kind} is not a plain linear layer or convolution")
    weight, bias = module._parameters.get("weight"), module._parameters.get("bias")
    if weight is None:
        raise Unsupported("its weight is computed (a parametrization): bake it first")
    plain = next(cls for cls in _LAYERS if isinstance(module, cls))
    if any(getattr(type(module), n, None) is not getattr(plain, n, None) for n in _COMPUTING):
        raise Unsupported(f"a {kind} computes something else than a {plain.__name__}")
    more = {*module._parameters, *module._buffers, *module._modules} - {"weight", "bias"}
    if more:
        raise Unsupported(
            f"it holds more than a weight and a bias: {sorted(more)}, which would be lost. Bake "
            f"parametrizations first; blocks that Deepen put behind it on a hook stay where it is"
        )
    if not weight.is_floating_point():
        raise Unsupported(f"its weights are {weight.dtype}: only floats can be split")
    if isinstance(module, nn.Linear):
        return Layer(weight.detach(), bias)
    held = padding_of(module)
    sides = tuple(zip(held.before, held.after, strict=True))
    if isinstance(module, _ConvTransposeNd) and module.groups > 1:
        raise Unsupported("a transposed convolution in groups cannot be split")
    own = weight.detach()
    own = own.transpose(0, 1) if held.extra is not None else own
    return Layer(own, bias, sides, held.stride, held.dilation, module.groups, held.mode, held.extra)


def module_of(layer: Layer) -> nn.Module:
    """A layer of torch.nn, with a padding module in front where both sides differ."""
    out, into = layer.weight.shape[0], layer.weight.shape[1] * layer.groups
    like, bias = layer.weight, layer.bias is not None
    dims = len(layer.kernel)
    if not dims:
        made = _made(like, nn.Linear, into, out, bias=bias)
    elif layer.extra is not None:
        made = _made(
            like, _TRANSPOSED[dims], into, out, layer.kernel, layer.stride,
            tuple(a for a, _ in layer.sides), layer.extra, bias=bias, dilation=layer.dilation,
        )  # fmt: skip
    else:
        even = all(a == b for a, b in layer.sides)
        padding = tuple(a for a, _ in layer.sides) if even else (0,) * dims
        mode = "zeros" if layer.mode == "constant" or not even else layer.mode
        made = _made(
            like, _CONV[dims], into, out, layer.kernel, layer.stride, padding,
            layer.dilation, layer.groups, bias=bias, padding_mode=mode,
        )  # fmt: skip
        made = made if even else nn.Sequential(_pad(layer), made)
    write(layer, made)
    return made


def _made(like: Tensor, cls: type[nn.Module], *args: object, **options: object) -> nn.Module:
    """A layer of the device and dtype of a weight; its constructor draws no random numbers."""
    module: nn.Module = torch.nn.utils.skip_init(  # type: ignore[no-untyped-call]
        cls, *args, **options, device=like.device, dtype=like.dtype
    )
    return module


def _pad(layer: Layer) -> nn.Module:
    cls = getattr(nn, f"{_PADS[layer.mode]}{len(layer.kernel)}d")
    flat = tuple(n for sides in reversed(layer.sides) for n in sides)
    made: nn.Module = cls(flat, 0.0) if _PADS[layer.mode] == "ConstantPad" else cls(flat)
    return made


@torch.no_grad()
def write(layer: Layer, module: nn.Module) -> None:
    """Put the layer's numbers into the module that `module_of` made for its shapes."""
    own = module[1] if isinstance(module, nn.Sequential) else module
    weight, bias = own._parameters["weight"], own._parameters.get("bias")
    assert weight is not None
    if weight.is_meta:
        return
    wanted = layer.weight.transpose(0, 1) if layer.extra is not None else layer.weight
    weight.copy_(wanted)
    if bias is not None:
        bias.copy_(torch.zeros_like(bias) if layer.bias is None else layer.bias)
