"""P-activations: any activation, blended with the identity by a learned gate."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gnomon.activations.gate import Gated, mixed
from gnomon.activations.probe import can_overflow, check_per_entry
from gnomon.errors import Unsupported


class PActivation(Gated):
    """(1 - a) * activation(x) + a * x: the identity at a = 1, the activation at a = 0, bit for bit.

    Also where the activation overflows: such entries pass at a = 1 and give `a` no gradient.
    Over ReLU it is PReLU with slope a. Arguments as for `Gated`. Inputs must be finite, and below
    1/16 of the largest number of their dtype, where GELU and its like overflow unnoticed.

    Raises ValueError for bad arguments, Unsupported for an activation that mixes entries (softmax,
    norms, GLU), draws (dropout), or writes over its input.
    Source: Wei et al., Network Morphism, section 3.3, eq. 9.
    """

    def __init__(
        self,
        activation: nn.Module,
        a: float = 1.0,
        *,
        channels: int | None = None,
        dim: int = 1,
        clamp: bool = False,
    ) -> None:
        super().__init__(a, channels, dim, clamp)
        if not isinstance(activation, nn.Module):
            raise ValueError(f"activation must be a module such as nn.GELU(), not {activation!r}")
        check_per_entry(activation, channels)
        self.activation = activation
        self.guarded = can_overflow(activation)

    def forward(self, x: Tensor) -> Tensor:
        """Return (1 - a) * activation(x) + a * x, of the shape of x."""
        a = self.gate_for(x)
        return self._guarded(x, a) if self.guarded else mixed(x, self.activation(x), a)

    def _guarded(self, x: Tensor, a: Tensor) -> Tensor:
        """As `mixed`, where 0 * inf would make NaN: forward, and backward by an infinite slope."""
        passes = a == 1
        inner = self.activation(torch.where(passes, x.detach(), x))  # (1 - a) * slope is 0 there
        finite = inner.isfinite()
        y = mixed(x, torch.where(finite, inner, x), a)
        return torch.where(finite, y, torch.where(passes, x, inner))

    def fold(self, within: float = 0.0) -> nn.Module:
        """The plain module that computes the same, now that `a` is where it should be.

        The activation itself if all a are 0, `nn.Identity` if all are 1 (or no further from it
        than `within`). For ReLU, LeakyReLU and PReLU any a folds: into a new `nn.PReLU` with a
        slope for each gate, or `nn.LeakyReLU` if the one gate is frozen.

        Raises Unsupported for other activations in between.
        """
        if self.holds(0, within) or isinstance(self.activation, nn.Identity):
            return self.activation
        if self.holds(1, within):
            return nn.Identity().train(self.training)
        slope = self._slope()
        if slope is None:
            name, a = type(self.activation).__name__, self.gate().detach()
            raise Unsupported(
                f"a P-activation over {name} cannot fold with a from {float(a.min()):.3g} to "
                f"{float(a.max()):.3g}: no layer of torch's blends {name} with the identity. Bring "
                f"a to 0 first, step by step (module.a.data.mul_(0.9)), or keep it"
            )
        return _with_slope(slope, learned=self._learns()).train(self.training)

    def _slope(self) -> Tensor | None:
        """The slope for negative entries, where that is all there is to say."""
        own = _slope_of(self.activation)
        if own is None:
            return None
        if self.channels not in (None, 1) and self.dim != 1:
            raise Unsupported(
                f"a P-activation with channels in dimension {self.dim} cannot fold: nn.PReLU looks "
                f"for them in dimension 1. If inputs are (N, C), set its dim to 1 first"
            )
        a, own = self.gate().detach(), own.to(self.a)
        return own + a - a * own

    def _learns(self) -> bool:
        return any(p.requires_grad for p in self.parameters())


@torch.no_grad()
def _with_slope(slope: Tensor, *, learned: bool) -> nn.Module:
    if slope.numel() == 1 and not learned:
        return nn.LeakyReLU(float(slope))
    module = nn.PReLU(slope.numel(), device=slope.device, dtype=slope.dtype)
    module.weight.copy_(slope.reshape(-1)).requires_grad_(learned)
    return module


def _slope_of(activation: nn.Module) -> Tensor | None:
    """What a ReLU-like activation multiplies negative entries with."""
    if isinstance(activation, nn.ReLU):
        return torch.zeros(())
    if isinstance(activation, nn.LeakyReLU):
        return torch.tensor(activation.negative_slope, dtype=torch.float64)
    return activation.weight.detach() if isinstance(activation, nn.PReLU) else None
