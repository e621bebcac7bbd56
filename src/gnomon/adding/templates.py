"""The blocks that are put in by default: like the layer that stands before them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping

from torch import nn

from gnomon.activations import PActivation, PBatchNorm
from gnomon.adding.neighbour import Neighbour, Range, is_identity_on, slope_of_odd_part
from gnomon.blocks import Residual

_CONV: Mapping[int, Callable[..., nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_NORM = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


LEAST = 8  # hidden channels: of one or two signals behind a ReLU all may be silent on the examples


def residual(like: Neighbour) -> Residual:
    """x + conv2(activation(norm(conv1(x)))): kernel, norm and activation of the neighbour.

    BatchNorm stands inside only; the first convolution has no bias where a norm follows.
    """
    hidden = max(LEAST, like.channels)
    body: OrderedDict[str, nn.Module] = OrderedDict()
    body["conv1"] = _layer(like, like.channels, hidden, bias=not like.norm)
    if like.norm:
        body["norm"] = _NORM[like.spatial](hidden)
    body["activation"] = like.activation or nn.ReLU()
    body["conv2"] = _layer(like, hidden, like.channels, bias=True)
    return Residual(nn.Sequential(body).to(like.weight.dtype))


def identity(like: Neighbour, where: Range) -> nn.Sequential:
    """A layer that can start as the identity on values in a range.

    One layer, its norm and its activation, where phi(y) = y on the range; else two layers, since
    phi(x) - phi(-x) = kappa x. Raises CannotPreserve for an activation that allows neither.
    """
    activation = like.activation or nn.ReLU()
    block: OrderedDict[str, nn.Module] = OrderedDict()
    if is_identity_on(activation, where):
        block["layer"] = _layer(like, like.channels, like.channels, bias=not like.norm)
        if like.norm:
            block["norm"] = _NORM[like.spatial](like.channels)
        block["activation"] = activation
    elif slope_of_odd_part(activation) is not None:
        block["layer1"] = _layer(like, like.channels, 2 * like.channels, bias=True)
        block["activation"] = activation
        block["layer2"] = _layer(like, 2 * like.channels, like.channels, bias=True)
    else:
        block["layer"] = _layer(like, like.channels, like.channels, bias=not like.norm)
        if like.norm:
            block["norm"] = PBatchNorm(_NORM[like.spatial](like.channels))
        block["activation"] = PActivation(activation)
    return nn.Sequential(block).to(like.weight.dtype)


def _layer(like: Neighbour, inputs: int, outputs: int, *, bias: bool) -> nn.Module:
    if not like.spatial:
        return nn.Linear(inputs, outputs, bias=bias)
    padding = tuple(k // 2 for k in like.kernel)
    return _CONV[like.spatial](inputs, outputs, like.kernel, padding=padding, bias=bias)
