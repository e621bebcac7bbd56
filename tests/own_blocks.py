"""Blocks as users write them, what they are fed, and how large their outputs are."""

import copy

import torch
from torch import nn

VECTOR, IMAGE = (5, 3), (4, 2, 6, 6)


class Act(nn.Module):
    """An activation from a function, or any other forward."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs):
        return self.function(self, *inputs) if self._modules else self.function(*inputs)


def of(inner, last=None, hidden=6):
    """Two layers with something between, and perhaps something behind."""
    layers = [nn.Linear(3, hidden), inner, nn.Linear(hidden, 3)]
    return nn.Sequential(*layers, *([last] if last is not None else []))


def convs(dims, *inner, hidden=6, **options):
    conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dims]
    return nn.Sequential(
        conv(2, hidden, 3, padding=1, **options), *inner, conv(hidden, 2, 3, padding=1)
    )


def made(make, dtype=torch.float64):
    torch.manual_seed(0)
    return make().to(dtype)


def numbers(shape, dtype=torch.float64, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype)


@torch.no_grad()
def largest(module, x):
    """The largest output in both modes, of a copy."""
    return max(float(copy.deepcopy(module).train(m)(x).abs().max()) for m in (True, False))


class Gated(nn.Module):
    """A block of the user's own whose arguments can be read back."""

    def __init__(self, width, hidden=6, act=nn.SiLU):
        super().__init__()
        self.width, self.hidden, self.act = width, hidden, act
        self.gate, self.value = nn.Linear(width, hidden), nn.Linear(width, hidden)
        self.out, self.phi = nn.Linear(hidden, width), act()

    def forward(self, x):
        return self.out(self.phi(self.gate(x)) * self.value(x))


class Secret(nn.Module):
    """One whose arguments cannot."""

    def __init__(self, sizes):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(sizes[0], sizes[1]), nn.GELU(), nn.Linear(sizes[1], sizes[0])
        )

    def forward(self, x):
        return self.layers(x)
