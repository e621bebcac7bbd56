"""A mixture of experts that a feed-forward layer was made into."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Upcycled(nn.Module):
    """Experts side by side, `top_k` of which run for each row, weighted by a router.

        x ──┬── router ── softmax ── top k ── shares that add up to 1
            └── the experts picked ──────────── their outputs, weighted and added

    experts: modules of one kind that act on each row of (rows, width) alone. width: of their input.
    Scores and sums are taken in float32 at least, where hardly any two experts tie.
    """

    def __init__(self, experts: Iterable[nn.Module], *, width: int, top_k: int) -> None:
        super().__init__()
        self.experts = nn.ModuleList(experts)
        if not 1 <= top_k <= len(self.experts):
            raise ValueError(f"top_k must be 1 to {len(self.experts)}, not {top_k!r}")
        self.width, self.top_k = width, top_k
        self.router = nn.Linear(width, len(self.experts), bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to (..., what the experts make)."""
        rows = x.reshape(-1, self.width)
        wide = torch.promote_types(x.dtype, torch.float32)
        scores = nn.functional.linear(rows.to(wide), self.router.weight.to(wide))
        shares, picked = scores.softmax(-1).topk(self.top_k)
        shares = shares / shares.sum(-1, keepdim=True)
        parts = []
        for i, expert in enumerate(self.experts):
            at, place = torch.where(picked == i)
            parts.append((at, expert(rows[at]) * shares[at, place, None]))
        total: Tensor = parts[0][1].new_zeros(len(rows), parts[0][1].shape[-1])
        for at, part in parts:
            total = total.index_add(0, at, part.to(total.dtype))
        return total.to(x.dtype).view(*x.shape[:-1], total.shape[-1])

    def extra_repr(self) -> str:
        """Show how many experts run."""
        return f"top_k={self.top_k}"
