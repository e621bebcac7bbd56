"""Attention in the forms that people write: separate, fused, grouped, with masks, by hand."""

import math

import torch
import torch.nn.functional as F
from torch import nn


def split_heads(x, heads):
    """(B, N, H * d) -> (B, H, N, d)"""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


class SharedWidth(nn.Module):
    """One number for the width of queries, keys and values; the scale is computed from it."""

    def __init__(self):
        super().__init__()
        self.heads, self.head_dim, self.all_heads = 2, 3, 6
        self.q, self.k, self.v = (nn.Linear(5, 6, bias=b) for b in (True, False, True))
        self.out, self.drop = nn.Linear(6, 5), nn.Dropout(0.1)

    def forward(self, x, mask=None):
        batch, length, _ = x.shape
        shape = (batch, length, self.heads, self.head_dim)
        q, k, v = (f(x).view(shape).transpose(1, 2) for f in (self.q, self.k, self.v))
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(self.head_dim)
        if mask is not None:
            scores = scores + mask
        mixed = torch.matmul(self.drop(scores.softmax(-1)), v)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, self.all_heads))


class Fused(nn.Module):
    """[3 x heads x width] in one weight, picked apart by index; the scale is an attribute."""

    def __init__(self):
        super().__init__()
        self.heads, self.head_dim = 2, 3
        self.scale = self.head_dim**-0.5
        self.qkv, self.out = nn.Linear(5, 18), nn.Linear(6, 5)

    def forward(self, x):
        batch, length, _ = x.shape
        qkv = self.qkv(x).reshape(batch, length, 3, self.heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        weights = ((q * self.scale) @ k.transpose(-2, -1)).softmax(-1)
        return x + self.out((weights @ v).transpose(1, 2).flatten(2))


class FusedSum(nn.Module):
    """[q + k + v] in one weight, split by size; causal; as in GPT-2."""

    def __init__(self):
        super().__init__()
        self.heads, self.split = 2, 6
        self.norm, self.enter = nn.LayerNorm(5), nn.Linear(5, 5)
        self.qkv, self.out = nn.Linear(5, 18), nn.Linear(6, 5)

    def forward(self, x):
        x = self.enter(x)
        q, k, v = self.qkv(self.norm(x)).split(self.split, dim=-1)
        q, k, v = (split_heads(part, self.heads) for part in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return x + self.out(mixed.transpose(1, 2).flatten(2))


class HeadsOutside(nn.Module):
    """[heads x 3 x width] in one weight, as in BLOOM and GPT-NeoX; a bias of the positions."""

    def __init__(self):
        super().__init__()
        self.heads, self.head_dim = 2, 4
        self.qkv, self.out = nn.Linear(5, 24), nn.Linear(8, 5)
        self.table = nn.Parameter(torch.randn(2, 4, 4))

    def forward(self, x):
        batch, length, _ = x.shape
        qkv = self.qkv(x).view(batch, length, self.heads, 3 * self.head_dim).transpose(1, 2)
        q, k, v = qkv.chunk(3, dim=-1)
        scores = torch.einsum("bhqd,bhkd->bhqk", q, k) * self.head_dim**-0.5 + self.table
        mixed = torch.einsum("bhqk,bhkd->bqhd", scores.softmax(-1), v)
        return self.out(mixed.flatten(2))


class Grouped(nn.Module):
    """Two groups of two query heads, each with one head of keys and values."""

    def __init__(self):
        super().__init__()
        self.head_dim, self.groups = 3, 2
        self.q, self.k, self.v = nn.Linear(5, 12), nn.Linear(5, 6), nn.Linear(5, 6)
        self.out = nn.Linear(12, 5, bias=False)

    def forward(self, x):
        batch, length, _ = x.shape
        q, k, v = (
            f(x).view(batch, length, -1, self.head_dim).transpose(1, 2)
            for f in (self.q, self.k, self.v)
        )
        k, v = (self.repeated(part, q.shape[1] // self.groups) for part in (k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, scale=0.6)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, -1))

    def repeated(self, x, times):
        batch, heads, length, width = x.shape
        x = x[:, :, None].expand(batch, heads, times, length, width)
        return x.reshape(batch, heads * times, length, width)


class Summed(nn.Module):
    """Scores by baddbmm on a mask, as in BLOOM."""

    def __init__(self):
        super().__init__()
        self.heads = 2
        self.parts = [6, 8]
        self.q, self.kv, self.out = nn.Linear(5, 6), nn.Linear(4, 14), nn.Linear(8, 5)

    def forward(self, x, memory):
        k, v = self.kv(memory).split(self.parts, -1)
        q, k, v = (split_heads(part, self.heads).flatten(0, 1) for part in (self.q(x), k, v))
        mask = torch.zeros(q.shape[0], q.shape[1], k.shape[1], dtype=q.dtype)
        scores = torch.baddbmm(mask, q, k.transpose(1, 2), beta=1.0, alpha=0.5)
        mixed = torch.bmm(scores.softmax(-1), v).unflatten(0, (-1, self.heads))
        return self.out(mixed.transpose(1, 2).flatten(2))


class Rotary(nn.Module):
    """Queries and keys are turned by their positions, which mixes pairs of their channels."""

    def __init__(self):
        super().__init__()
        self.heads = 2
        self.q, self.k, self.v = nn.Linear(5, 8), nn.Linear(5, 8), nn.Linear(5, 6)
        self.out = nn.Linear(6, 5)
        self.register_buffer("speed", torch.tensor([1.0, 0.1]), persistent=False)

    def turned(self, x):
        angle = torch.outer(torch.arange(x.shape[-2]).to(x), self.speed)
        angle = torch.cat([angle, angle], -1)
        left, right = x.chunk(2, -1)
        return x * angle.cos() + torch.cat([-right, left], -1) * angle.sin()

    def forward(self, x):
        q, k, v = (split_heads(f(x), self.heads) for f in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(self.turned(q), self.turned(k), v, scale=0.5)
        return self.out(mixed.transpose(1, 2).flatten(2))


class PartlyRotary(Rotary):
    """Some channels of each head are turned, the rest are not; one number counts both."""

    def __init__(self):
        super().__init__()
        self.head_dim, self.turning = 8, 4
        self.q, self.k, self.v = nn.Linear(5, 16), nn.Linear(5, 16), nn.Linear(5, 16)
        self.out = nn.Linear(16, 5)

    def partly(self, x):
        return torch.cat([self.turned(x[..., : self.turning]), x[..., self.turning :]], -1)

    def forward(self, x):
        split = (*x.shape[:-1], -1, self.head_dim)
        q, k, v = (f(x).view(split).transpose(1, 2) for f in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(self.partly(q), self.partly(k), v, scale=0.5)
        return self.out(mixed.transpose(1, 2).flatten(2))


class TableOfHeads(nn.Module):
    """A learned bias per head, looked up by relative position, as in Swin and T5."""

    def __init__(self):
        super().__init__()
        self.heads = 2
        self.q, self.k, self.v = nn.Linear(5, 6), nn.Linear(5, 6), nn.Linear(5, 8)
        self.table, self.out = nn.Embedding(7, 2), nn.Linear(8, 5)

    def forward(self, x):
        at = torch.arange(x.shape[1])
        bias = self.table(at[:, None] - at[None, :] + 3).permute(2, 0, 1)
        q, k, v = (split_heads(f(x), self.heads) for f in (self.q, self.k, self.v))
        weights = (q @ k.mT * 0.5 + bias).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


def encoder():
    """nn.MultiheadAttention inside of PyTorch's own layer, with its fast path."""
    layer = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True)
    return nn.Sequential(nn.Linear(5, 6), layer, nn.Linear(6, 3))


class NormedRotary(Rotary):
    """A norm of queries and one of keys, of each head, before they are turned."""

    norm = nn.RMSNorm

    def __init__(self):
        super().__init__()
        self.q_norm, self.k_norm = self.norm(4, eps=1e-3), self.norm(4, eps=1e-2)

    def forward(self, x):
        q, k, v = (split_heads(f(x), self.heads) for f in (self.q, self.k, self.v))
        q, k = self.turned(self.q_norm(q)), self.turned(self.k_norm(k))
        mixed = F.scaled_dot_product_attention(q, k, v, scale=0.5)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Latents(nn.Module):
    """Learned latents ask, tokens answer: queries are computed from parameters alone."""

    def __init__(self):
        super().__init__()
        self.head_dim = 3
        self.latents = nn.Parameter(torch.randn(3, 5))
        self.q, self.k, self.v = nn.Linear(5, 6), nn.Linear(5, 6), nn.Linear(5, 6)
        self.out, self.head = nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, x):
        latents = self.latents.expand(len(x), -1, -1)
        q, k, v = (
            f(y).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for f, y in ((self.q, latents), (self.k, x), (self.v, x))
        )
        weights = (q @ k.mT / math.sqrt(self.head_dim)).softmax(-1)
        return self.head(latents + self.out((weights @ v).transpose(1, 2).flatten(2)))
