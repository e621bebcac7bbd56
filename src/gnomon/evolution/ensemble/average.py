"""The simplest ensemble: the mean of what the members believe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gnomon.evolution.ensemble.frozen import Frozen
from gnomon.evolution.joint.problem import Inputs


class Average(nn.Module):
    """The weighted mean of the members' probabilities, (N, classes).

        x ──┬── member 1 ── softmax ── w1 ─┐
            └── member 2 ── softmax ── w2 ─┴── + ── probabilities

    weights: one per member, such as how often `greedy` has picked it; scaled to a sum of 1.
    logits:  give the mean of the outputs as they are, for networks that are no classifiers.

    Raises what `Frozen` raises, and ValueError for weights that are none.
    """

    weights: Tensor

    def __init__(
        self,
        networks: Sequence[nn.Module],
        inputs: Inputs,
        *,
        weights: Sequence[float] | None = None,
        logits: bool = False,
    ) -> None:
        super().__init__()
        self.members, self.logits = Frozen(networks, inputs), logits
        chosen = [1.0] * len(networks) if weights is None else [float(w) for w in weights]
        if len(chosen) != len(networks) or min(chosen) < 0 or not 0 < sum(chosen) < float("inf"):
            raise ValueError(f"weights={chosen} must be {len(networks)} numbers, not all of them 0")
        like = next(self.members.parameters(), torch.empty(0))
        # float64: in the members' own precision the shares of three would not add up to 1.
        shares = torch.tensor(chosen, dtype=torch.float64, device="cpu")
        self.register_buffer("weights", (shares / shares.sum()).to(like.device))

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the probabilities, (N, classes), or the mean outputs."""
        several = torch.stack(self.members(*args, **kwargs))
        believed = several if self.logits else several.softmax(2)
        return (believed * self.weights.to(believed.dtype).view(-1, 1, 1)).sum(0)
