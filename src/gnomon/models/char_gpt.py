"""A small GPT over characters: pre-norm blocks of causal attention and a feed-forward network."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


class Attention(nn.Module):
    """Causal attention of several heads. The widths of queries, keys and values may be grown."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.queries = nn.Linear(width, width)
        self.keys = nn.Linear(width, width)
        self.values = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, width) to the same."""
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.queries, self.keys, self.values)
        )
        mixed = scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    """Attention and a feed-forward network, each behind a norm and beside a skip."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, width) to the same."""
        x = x + self.attention(self.norm1(x))
        x = x + self.feed(self.norm2(x))
        return x


class CharGPT(nn.Module):
    """Tells the next character. `block`: how many it sees at most; hidden: 4 x width by default.

    Source: Radford et al. 2019 (GPT-2), without dropout, its output layer not tied.
    """

    def __init__(
        self,
        classes: int = 65,
        *,
        width: int = 32,
        layers: int = 2,
        heads: int = 4,
        hidden: int | None = None,
        block: int = 64,
    ) -> None:
        super().__init__()
        self.characters = nn.Embedding(classes, width)
        self.positions = nn.Embedding(block, width)
        blocks = [Block(width, heads, hidden or 4 * width) for _ in range(layers)]
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, T, classes) of characters' numbers (N, T)."""
        places = torch.arange(x.shape[1], device=x.device)
        x = self.characters(x) + self.positions(places)
        logits: Tensor = self.head(self.norm(self.blocks(x)))
        return logits
