"""Factories that the tests name on a command line."""

import torch
from torch import nn

from gnomon.models import CharGPT


def small(width=4):
    layers = (nn.Linear(3, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
    return nn.Sequential(*layers, nn.Linear(width, 2)), torch.linspace(-1, 1, 15).view(5, 3)


def normed():
    """With buffers in and outside of the state_dict."""
    layers = (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(24, 2))


class Tied(nn.Module):
    """An embedding that is the head too, and a table outside of the state_dict."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("table", torch.arange(6.0), persistent=False)

    def forward(self, x):
        y = self.embed(x) + self.table
        return self.head(y + self.down(torch.relu(self.up(y))))


def tied():
    return Tied(), torch.tensor([[1, 2, 3], [4, 5, 6]])


def nothing():
    return 3


def failing():
    raise OSError("no such disk")


def nan():
    model, example = small()
    nn.init.constant_(model[0].weight, float("nan"))
    return model, example


def blocks():
    """Blocks that know their place, behind a layer."""
    return Stack(), torch.linspace(-1, 1, 30).view(5, 6)


class Block(nn.Module):
    """x + mlp(norm(x)), or norm(x + mlp(x))."""

    def __init__(self, layer_idx, *, post=False):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(6), nn.Linear(6, 8), nn.Linear(8, 6)
        self.layer_idx, self.post = layer_idx, post

    def forward(self, x):
        y = self.down(torch.relu(self.up(x if self.post else self.norm(x))))
        return self.norm(x + y) if self.post else x + y


class Stack(nn.Module):
    """Three blocks with the norm in front, then two with the norm behind."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.blocks = nn.ModuleList(Block(i) for i in range(3))
        self.post = nn.ModuleList(Block(i, post=True) for i in range(2))

    def forward(self, x):
        x = self.first(x)
        for block in (*self.blocks, *self.post):
            x = block(x)
        return x


def language():
    """A language model of two blocks under LayerNorm, and some text."""
    return CharGPT(20, width=16, block=12), torch.arange(24).view(2, 12) % 20
