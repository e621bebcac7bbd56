"""Shortcuts of residual blocks that are not the identity: zero padding, and one-ended ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ZeroPadded(nn.Module):
    """The shortcut without weights of He et al. 2015 (option A): every stride-th position, and
    `more` channels of zeros behind the old ones.
    """

    def __init__(self, more: int, stride: int = 1) -> None:
        super().__init__()
        if more < 0 or stride < 1:
            raise ValueError(f"more={more} must not be negative, and stride={stride} at least 1")
        self.more, self.stride = more, stride

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C + more, ...) of x (N, C, ...)."""
        every = (slice(None), slice(None), *[slice(None, None, self.stride)] * (x.dim() - 2))
        padding = [0, 0] * (x.dim() - 2) + [0, self.more]
        return F.pad(x[every] if self.stride > 1 else x, padding)

    def extra_repr(self) -> str:
        """Show the arguments."""
        return f"{self.more}, stride={self.stride}"


class OneEnded(nn.Module):
    """A shortcut that may read more channels than it writes: r(x) = K x + P x.

        x  = [x_old, x_L, x_R]            a stream that was widened by twins
        r(x) = x_old + P x_L - P x_R      K passes the old channels on, P reads the new ones

    K (`kept`) is a buffer: the identity, or zero padding where outputs > inputs. P (`weight`)
    starts at zero; widening gives it columns that cancel, as to any reader. So the input of a
    residual block grows without its output, as often as one likes.

    inputs, outputs: channels before any growth.
    dims:   spatial dimensions; 0 for features in the last dimension.
    before: what acts on x first, per channel: pooling.
    Source: Painter, Towards a More Complete Theory of FPTs, eq. 17-18, in corrected form.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        dims: int = 2,
        stride: int = 1,
        before: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if dims not in (0, 1, 2, 3):
            raise ValueError(f"dims must be 0, 1, 2 or 3, not {dims!r}")
        if outputs < inputs:
            raise ValueError(f"{inputs} channels do not fit into {outputs} unchanged")
        self.inputs, self.outputs, self.dims, self.stride = inputs, outputs, dims, stride
        self.before = nn.Identity() if before is None else before
        self.kept: Tensor
        taps = (1,) * dims
        self.register_buffer("kept", torch.eye(outputs, inputs).reshape(outputs, inputs, *taps))
        self.weight = nn.Parameter(torch.zeros(outputs, inputs, *taps))

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, outputs, ...) of x (N, inputs and more, ...)."""
        x = self.before(x)
        if not self.dims:
            return F.linear(x, self.kept) + F.linear(x, self.weight)
        convolve, stride = (F.conv1d, F.conv2d, F.conv3d)[self.dims - 1], self.stride
        return convolve(x, self.kept, stride=stride) + convolve(x, self.weight, stride=stride)

    def extra_repr(self) -> str:
        """Show the arguments, and how many channels are read by now."""
        now = self.weight.shape[1]
        return f"{self.inputs}, {self.outputs}, dims={self.dims}, stride={self.stride}, reads {now}"
