"""Blocks whose own numbers tie groups to one another: shared sizes of splits, C // heads."""

import torch
from torch import nn


class TwoStages(nn.Module):
    """Two stages, with a layer before, between and behind them."""

    def forward(self, x):
        x = self.first(self.enter(x))
        return self.head(self.second(self.between(x.tanh())).tanh())


class Cascade(nn.Module):
    """Each head reads a slice of the stream and what the head before gave; two numbers for all.

    Values of the first head are added to the stream's slice, those of the last are their own.
    """

    def __init__(self, width, key_dim):
        super().__init__()
        self.key_dim, self.val_dim, self.scale = key_dim, width // 2, key_dim**-0.5
        self.heads = nn.ModuleList(nn.Linear(width // 2, 2 * key_dim + width // 2) for _ in "12")
        self.out = nn.Linear(width, width)

    def forward(self, x):
        parts, done = x.chunk(len(self.heads), -1), []
        y = 0
        for part, head in zip(parts, self.heads, strict=True):
            q, k, v = head(part + y).split([self.key_dim, self.key_dim, self.val_dim], -1)
            y = ((q * self.scale) @ k.transpose(-2, -1)).softmax(-1) @ v
            done.append(y)
        return x + self.out(torch.cat(done, -1).tanh())


class Cascades(TwoStages):
    """Two stages of two blocks each, of other widths."""

    def __init__(self):
        super().__init__()
        self.enter, self.first = nn.Linear(5, 4), nn.Sequential(Cascade(4, 3), Cascade(4, 3))
        self.between, self.second = nn.Linear(4, 10), nn.Sequential(Cascade(10, 3), Cascade(10, 3))
        self.head = nn.Linear(10, 2)


class Part(nn.Module):
    """Attention on the first channels of a stream; the rest is counted as a difference."""

    def __init__(self, part, width, key_dim):
        super().__init__()
        self.part, self.width, self.key_dim = part, width, key_dim
        self.norm, self.qkv = nn.LayerNorm(part), nn.Linear(part, 2 * key_dim + part)
        self.out = nn.Linear(width, width)

    def forward(self, x):
        ours, rest = torch.split(x, [self.part, self.width - self.part], -1)
        qkv = self.qkv(self.norm(ours))
        q, k, v = torch.split(qkv, [self.key_dim, self.key_dim, self.part], -1)
        ours = (q @ k.transpose(-2, -1) * 0.6).softmax(-1) @ v
        return x + self.out(torch.cat([ours, rest], -1).tanh())


class Parts(TwoStages):
    """Two stages, the first of two blocks."""

    def __init__(self):
        super().__init__()
        self.enter, self.first = nn.Linear(5, 5), nn.Sequential(Part(2, 5, 3), Part(2, 5, 3))
        self.between, self.second = nn.Linear(5, 7), Part(4, 7, 3)
        self.head = nn.Linear(7, 2)


class Window(nn.Module):
    """C // heads, where C is the width of what comes in; every second block has a mask."""

    def __init__(self, width, heads, masked):
        super().__init__()
        self.num_heads, self.masked = heads, masked
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.num_heads, width // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        scores = q @ k.transpose(-2, -1) * 0.6
        if self.masked:
            mask = scores.new_ones(2, length, length).triu(1)
            scores = scores.view(batch // 2, 2, self.num_heads, length, length)
            scores = (scores - 5 * mask.unsqueeze(1)).view(-1, self.num_heads, length, length)
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, width))


class OtherWindow(Window):
    """The same by another class: heads that are not counted among those of the first."""


class Block(nn.Module):
    """Attention and two layers, each under a norm."""

    def __init__(self, attention, width):
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(width), attention
        self.feed = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 7), nn.GELU())
        self.back = nn.Linear(7, width)

    def forward(self, x):
        x = x + self.attention(self.norm(x))
        return x + self.back(self.feed(x))


class Windows(nn.Module):
    """Blocks with and without a mask, and one of another class."""

    def __init__(self, blocks=3, masked=True):
        super().__init__()
        self.width = self.features = self.planes = 6  # that nothing reads
        self.enter = nn.Linear(5, 6)
        makers = [(Window, masked and i % 2 == 1) for i in range(blocks - 1)] + [
            (OtherWindow, False)
        ]
        self.blocks = nn.Sequential(*(Block(make(6, 2, mask), 6) for make, mask in makers))
        self.norm, self.head = nn.LayerNorm(6), nn.Linear(6, 2)

    def forward(self, x):
        return self.head(self.norm(self.blocks(self.enter(x))))


class Reducing(nn.Module):
    """Attention to every second position, by a layer of its own that gives as many channels."""

    def __init__(self, width, heads):
        super().__init__()
        self.num_heads = heads
        self.q, self.kv = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.reduce, self.norm = nn.Conv1d(width, width, 2, stride=2), nn.LayerNorm(width)
        self.out = nn.Linear(width, width)

    def forward(self, x):
        batch, length, width = x.shape
        q = self.q(x).view(batch, length, self.num_heads, -1).transpose(1, 2)
        fewer = self.reduce(x.transpose(1, 2).reshape(batch, width, length))
        fewer = self.norm(fewer.view(batch, width, -1).transpose(1, 2))
        kv = self.kv(fewer).view(batch, -1, 2, self.num_heads, width // self.num_heads)
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)
        scores = q @ k.transpose(-2, -1) * 0.6
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, width))


class Pyramid(nn.Module):
    """Two stages of other widths and heads, of two blocks each, and one with plain attention."""

    def __init__(self):
        super().__init__()
        self.enter, self.leave = nn.Linear(5, 4), nn.Linear(9, 2)
        self.first = nn.Sequential(Block(Reducing(4, 2), 4), Block(Reducing(4, 2), 4))
        self.between = nn.Linear(4, 9)
        self.second = nn.Sequential(Block(Reducing(9, 3), 9), Block(Window(9, 3, False), 9))
        self.norm = nn.LayerNorm(9)

    def forward(self, x):
        x = self.between(self.first(self.enter(x)))
        return self.leave(self.norm(self.second(x)))


class Written(nn.Module):
    """A stream of which the code has written down how wide it is, and hidden channels in pairs."""

    def __init__(self):
        super().__init__()
        self.enter, self.norm = nn.Linear(5, 6), nn.LayerNorm(6)
        self.hidden, self.leave = nn.Linear(6, 4), nn.Linear(4, 2)

    def forward(self, x):
        rows = self.norm(self.enter(x)).reshape(-1, 6)
        pairs = self.hidden(rows).reshape(*x.shape[:2], -1, 2)
        return self.leave(pairs.tanh().flatten(2))
