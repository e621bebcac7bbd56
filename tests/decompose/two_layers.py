"""Layers as they are run: convolutions with a padding of their own on either side."""

import torch
import torch.nn.functional as F

from gnomon.decompose import Geometry

CONV = {0: None, 1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def run(x, weight, geometry=None, bias=None):
    """A convolution, or a linear layer for a weight without taps."""
    n = weight.dim() - 2
    if n == 0:
        return F.linear(x, weight, bias)
    moves = (geometry or Geometry()).over(n)
    sides = [side for pair in reversed(moves.padding) for side in pair]
    padded = F.pad(x, sides)
    return CONV[n](
        padded, weight, bias, stride=moves.stride, dilation=moves.dilation, groups=moves.groups
    )


def normal(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def change(new, old):
    """The largest difference, relative to the largest output; they must have one shape."""
    assert new.shape == old.shape
    return float((new - old).abs().max() / old.abs().max())
