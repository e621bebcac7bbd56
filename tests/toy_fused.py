"""Attention as it is often written: fused weights, C // heads, rotary on a part of each head."""

import torch
import torch.nn.functional as F
from torch import nn


class PartlyTurned(nn.Module):
    """One weight for [heads x (q, k, v)], of which the first channels of q and k are turned."""

    def __init__(self):
        super().__init__()
        self.size, self.scale = 6, 6**-0.5
        self.qkv, self.out = nn.Linear(5, 2 * 3 * 6), nn.Linear(2 * 6, 5)
        self.register_buffer("speed", torch.tensor([1.0, 0.1]), persistent=False)

    def turned(self, x):
        angle = torch.outer(torch.arange(x.shape[-2]).to(x), self.speed)
        angle = torch.cat([angle, angle], -1)
        n = angle.shape[-1]
        turning, rest = x[..., :n], x[..., n:]
        left, right = turning.chunk(2, -1)
        turning = turning * angle.cos() + torch.cat([-right, left], -1) * angle.sin()
        return torch.cat([turning, rest], -1)

    def forward(self, x):
        each = self.qkv(x).view(*x.shape[:-1], -1, 3 * self.size).transpose(1, 2)
        q, k, v = each.chunk(3, -1)
        mixed = F.scaled_dot_product_attention(self.turned(q), self.turned(k), v, scale=self.scale)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Attention(nn.Module):
    """C // heads: whoever widens the stream has to add heads."""

    def __init__(self, width):
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.heads, self.width = 2, width

    def forward(self, x):
        b, t, c = x.size()
        q, k, v = (
            y.view(b, t, self.heads, c // self.heads).transpose(1, 2)
            for y in self.qkv(x).split(self.width, dim=2)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).contiguous().view(b, t, c))


class Decoder(nn.Module):
    """A language model whose embedding is its head as well."""

    def __init__(self):
        super().__init__()
        self.tokens, self.places = nn.Embedding(7, 8), nn.Embedding(4, 8)
        self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in range(3))
        self.attention = nn.ModuleList(Attention(8) for _ in range(2))
        self.up, self.down = nn.Linear(8, 6), nn.Linear(6, 8)
        self.head = nn.Linear(8, 7, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, i):
        x = self.tokens(i) + self.places(torch.arange(i.shape[1]))
        for norm, attention in zip(self.norms, self.attention, strict=False):
            x = x + attention(norm(x))
        x = x + self.down(F.gelu(self.up(x)))
        return self.head(self.norms[-1](x))
