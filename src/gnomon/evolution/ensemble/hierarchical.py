"""The ensemble of the paper: a small network that reads what all members say of an example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gnomon.evolution.chance import drawn_from
from gnomon.evolution.ensemble.frozen import Frozen
from gnomon.evolution.joint.problem import Inputs


class Hierarchical(nn.Module):
    """Frozen members, their outputs side by side for each example, and a network on top.

        x ──┬── member 1 ── (N, c) ─┐
            ├── member 2 ── (N, c) ─┼── (N, K c) ── Linear 64 ── ReLU ── Linear ── (N, classes)
            └── member K ── (N, c) ─┘

    They are joined along dim 1. (The published code joins them along the batch, and so mixes
    examples.) The top starts at random; `fit` trains it.

    heads:  give the path of each member's classifier to read what that reads, its penultimate
            features, in place of the outputs.
    hidden: of the top. seed: its first weights depend on it, and on nothing else.

    Raises what `Frozen` raises. Source: Painter, Deep Neuroevolution, 4.4.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        inputs: Inputs,
        *,
        heads: Sequence[str] | None = None,
        hidden: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if hidden < 1:
            raise ValueError(f"hidden={hidden} must be 1 or more")
        self.members = Frozen(networks, inputs, heads)
        like = next(self.members.parameters(), torch.empty(0))
        with drawn_from(seed, "top"):
            first = nn.Linear(sum(self.members.widths), hidden)
            top = nn.Sequential(first, nn.ReLU(), nn.Linear(hidden, self.members.classes))
        self.top = top.to(like)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the logits, (N, classes)."""
        logits: Tensor = self.top(torch.cat(self.members(*args, **kwargs), dim=1))
        return logits
