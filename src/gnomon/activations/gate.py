"""The gate `a` of a P-activation: how it is kept, mixed in, clamped and spared weight decay."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


class Gated(nn.Module):
    """What P-activations have in common: (1 - a) * inner(x) + a * x, with a learned gate `a`.

        x ──┬── inner ── * (1 - a) ──┐
            └────────────── * a ─────+── y        a = 1: y = x        a = 0: y = inner(x)

    a:        its initial value; then the parameter, of shape () or (channels,).
    channels: give one gate to each channel; None for one gate in all.
    dim:      where the input has its channels: 1 for convolutions, -1 for features.
    clamp:    use the nearest number in [0, 1] instead of `a`.

    Raises ValueError for other values.
    """

    def __init__(self, a: float, channels: int | None, dim: int, clamp: bool) -> None:
        super().__init__()
        whole = not isinstance(channels, bool) and isinstance(channels, int)
        if channels is not None and not (whole and channels >= 1):
            raise ValueError(f"channels must be a whole number of 1 or more, or None: {channels!r}")
        if isinstance(dim, bool) or not isinstance(dim, int) or dim == 0:
            raise ValueError(f"dim must be a dimension that holds channels, 1 or -1, not {dim!r}")
        if not math.isfinite(a) or (clamp and not 0 <= a <= 1):
            raise ValueError(f"a={a} must be finite, and in [0, 1] with clamp=True")
        self.dim, self.clamp = dim, clamp
        self.a = nn.Parameter(torch.full(() if channels is None else (channels,), float(a)))

    @property
    def channels(self) -> int | None:
        """How many gates there are, by now: one that grew has more; None for one in all."""
        return self.a.shape[0] if self.a.dim() else None

    def gate(self) -> Tensor:
        """The `a` that counts: of shape () or (channels,), clamped if that was asked for."""
        return _clamped(self.a) if self.clamp else self.a

    def gate_for(self, x: Tensor) -> Tensor:
        """The gate, shaped to broadcast along the channels of x and in its dtype.

        Without the cast, float32 gates would promote what autocast made bfloat16.
        """
        a = self.gate().to(x.dtype)
        if self.channels is None:
            return a
        if not -x.dim() <= self.dim < x.dim() or x.shape[self.dim] != self.channels:
            raise ValueError(
                f"an input of shape {tuple(x.shape)} has no {self.channels} channels in dimension "
                f"{self.dim}, one for each gate: build the {type(self).__name__} with the channels "
                f"and dim of its input"
            )
        behind = x.dim() - 1 - self.dim % x.dim()
        return a.view(-1, *[1] * behind) if behind else a

    def holds(self, value: float, within: float = 0.0) -> bool:
        """Whether every gate is this value, or nearer to it than `within`."""
        return bool(((self.gate().detach() - value).abs() <= within).all())

    def extra_repr(self) -> str:
        """Show what the printed children do not."""
        return f"channels={self.channels}, dim={self.dim}, clamp={self.clamp}"


def mixed(x: Tensor, inner: Tensor, a: Tensor) -> Tensor:
    """Return (1 - a) * inner + a * x: exactly x where a = 1, exactly `inner` where a = 0.

    Both must be finite. Of the ways to write it, this one is exact at both ends (x + (1 - a) *
    (inner - x) is so at one) and uses `a` in products only, where 1 - a would look to the analysis
    like a bias: so channels of zeros are seen to stay zeros.
    """
    return a * x + (inner - a * inner)


def gates(model: nn.Module) -> dict[str, nn.Parameter]:
    """The gate of every P-activation and P-norm in a model, by parameter name."""
    return {
        f"{path}.a" if path else "a": module.a
        for path, module in model.named_modules()
        if isinstance(module, Gated)
    }


def without_decay(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups for a new optimizer: every gate in one of its own, with no weight decay.

    Decay would pull a gate from the identity towards the activation: that should be decided, not
    happen. Groups that would be empty are left out.
    """
    spared = {id(p) for p in gates(model).values()}
    rest = [p for p in model.parameters() if id(p) not in spared]
    own = [p for p in model.parameters() if id(p) in spared]
    groups = [
        {"params": rest, "weight_decay": weight_decay},
        {"params": own, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _clamped(a: Tensor) -> Tensor:
    y: Tensor = _Clamp.apply(a)  # type: ignore[no-untyped-call]
    return y


class _Clamp(torch.autograd.Function):
    """clamp(a, 0, 1) whose gradient stops only what would lead further out.

    A plain clamp has no gradient outside, where one step too long would leave `a` for ever; a
    straight-through one lets it wander off, and takes as many steps to come back.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor) -> Tensor:
        return a.clamp(0, 1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (a,), (gradient,) = ctx.saved_tensors, gradients
        outwards = ((a >= 1) & (gradient < 0)) | ((a <= 0) & (gradient > 0))
        return gradient.masked_fill(outwards, 0)
