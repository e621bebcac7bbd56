"""P-BatchNorm: a batch norm, blended with the identity by a learned gate."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gnomon.activations.gate import Gated, mixed
from gnomon.errors import Unsupported


class PBatchNorm(Gated):
    """(1 - a) * norm(x) + a * x: the identity at a = 1, in train and in eval mode, bit for bit.

    The norm runs whatever `a` is, so its running statistics are ready when `a` reaches 0.
    Arguments as for `Gated`; channels are those of the norm, or None.

    Raises ValueError for bad arguments, Unsupported for other norms: what they mix is not undone.
    """

    def __init__(
        self,
        norm: nn.Module,
        a: float = 1.0,
        *,
        channels: int | None = None,
        clamp: bool = False,
    ) -> None:
        super().__init__(a, channels, 1, clamp)
        if not isinstance(norm, _BatchNorm):
            raise Unsupported(f"norm must be a nn.BatchNorm1d, 2d or 3d, not {norm!r}")
        if channels not in (None, norm.num_features):
            raise ValueError(f"channels={channels} is not the width of {norm}")
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """Return (1 - a) * norm(x) + a * x, of the shape of x."""
        return mixed(x, self.norm(x), self.gate_for(x))

    def fold(self, within: float = 0.0) -> nn.Module:
        """The norm itself if all a are 0, `nn.Identity` if all are 1 (give or take `within`).

        Raises Unsupported in between.
        """
        if self.holds(0, within):
            return self.norm
        if self.holds(1, within):
            return nn.Identity().train(self.training)
        a = self.gate().detach()
        raise Unsupported(
            f"a PBatchNorm cannot fold with a from {float(a.min()):.3g} to {float(a.max()):.3g}: "
            f"in train mode no one layer computes it. Bring a to 0 first, step by step "
            f"(module.a.data.mul_(0.9)), or keep it"
        )
