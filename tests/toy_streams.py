"""Streams under norms: transformer blocks, whose attention is by hand, and norms by hand."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RootMeanSquare(nn.Module):
    """RMSNorm written out, in float32 at least."""

    def __init__(self, width: int, eps: float = 1e-3):
        super().__init__()
        self.weight, self.variance_epsilon = nn.Parameter(torch.ones(width)), eps

    def forward(self, x):
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * wide.to(x.dtype)


class OnePlusGain(RootMeanSquare):
    """Gemma's: the gain is one more than the weight."""

    def forward(self, x):
        wide = x / torch.sqrt((x * x).mean(-1, keepdim=True) + self.variance_epsilon)
        return wide * (1.0 + self.weight)


class Centred(nn.Module):
    """LayerNorm written out."""

    def __init__(self, width: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.eps = 1e-3

    def forward(self, x):
        mean = x.mean(-1, keepdim=True)
        spread = (x - mean).pow(2).mean(-1, keepdim=True)
        return self.weight * ((x - mean) / torch.sqrt(spread + self.eps)) + self.bias


class ByVariance(Centred):
    """LayerNorm by torch.var."""

    def forward(self, x):
        spread = x.var(-1, unbiased=False, keepdim=True)
        y = (x - x.mean(-1, keepdim=True)) * (spread + self.eps).pow(-0.5)
        return y * self.weight + self.bias


class Bare(nn.Module):
    """LayerNorm as a function, without gain and bias."""

    def __init__(self, width: int):
        super().__init__()
        self.eps = 1e-3

    def forward(self, x):
        return F.layer_norm(x, x.shape[-1:], eps=self.eps)


class BareSquares(Bare):
    """RMSNorm written out, in float32 at least."""

    def forward(self, x):
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)).to(x.dtype)


class Block(nn.Module):
    """Attention of two heads of three, whose width is its own, and an MLP."""

    def __init__(self, width: int, norm, *, post: bool = False):
        super().__init__()
        self.norm1, self.norm2, self.post = norm(width), norm(width), post
        self.q, self.k, self.v = (nn.Linear(width, 6) for _ in range(3))
        self.out, self.up, self.down = nn.Linear(6, width), nn.Linear(width, 7), nn.Linear(7, width)
        self.dropout = nn.Dropout(0.1)

    def attend(self, x):
        q, k, v = (f(x).view(*x.shape[:2], 2, 3).transpose(1, 2) for f in (self.q, self.k, self.v))
        return self.out(
            F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(*x.shape[:2], 6)
        )

    def think(self, x):
        return self.down(F.gelu(self.up(x)))

    def forward(self, x):
        if self.post:
            x = self.norm1(x + self.attend(x))
            return self.norm2(x + self.think(x))
        x = x + self.dropout(self.attend(self.norm1(x)))
        return x + self.think(self.norm2(x))


class Language(nn.Module):
    """Words and positions, blocks, and a head behind the last norm (if it has one)."""

    def __init__(self, norm, width=6, *, post=False, tied=False, last=True, depth=2):
        super().__init__()
        self.words = nn.Embedding(9, width)
        self.positions = nn.Parameter(torch.randn(1, 4, width))
        self.blocks = nn.Sequential(*(Block(width, norm, post=post) for _ in range(depth)))
        self.norm = norm(width) if last else nn.Identity()
        self.head = nn.Linear(width, 9, bias=False)
        if tied:
            self.head.weight = self.words.weight

    def forward(self, tokens):
        x = self.words(tokens) + self.positions
        return self.head(self.norm(self.blocks(x)))


def words(draw: torch.Generator) -> Tensor:
    return torch.randint(0, 9, (3, 4), generator=draw)


class ChannelsFirst(nn.Module):
    """LayerNorm over the channels of images, by hand."""

    def __init__(self, width: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.eps = 1e-3

    def forward(self, x):
        mean = x.mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt((x - mean).pow(2).mean(1, keepdim=True) + self.eps)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class Images(nn.Module):
    """A stream of images; `between` stands between it and the norm."""

    def __init__(self, between: nn.Module, norm=ChannelsFirst):
        super().__init__()
        self.stem, self.between, self.norm = nn.Conv2d(2, 6, 3, padding=1), between, norm(6)
        self.wide, self.back = nn.Conv2d(6, 8, 1), nn.Conv2d(8, 6, 1)
        self.head = nn.Conv2d(6, 3, 1)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.back(F.gelu(self.wide(self.norm(self.between(x)))))
        return self.head(x).mean((2, 3))
