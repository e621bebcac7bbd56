"""The small networks that Table 1 is measured on: float64, every number random."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Activation = Callable[[], nn.Module]

EXACT = 1e-12  # the largest change that is rounding in float64, relative to the largest output
WIDTH = 6

# Inputs and outputs of the widened layer: its rows have fewer weights than its columns, or more.
SHAPES: Mapping[str, tuple[int, int]] = {"few inputs": (2, 5), "many inputs": (5, 2)}


@dataclass(frozen=True)
class NewLayers:
    """What is put in: so many layers with this activation, with BatchNorm or without.

    examples: size of the batch that a method may look at beforehand.
    """

    activation: Activation
    layers: int = 2
    norm: bool = False
    examples: int = 64


class Small(nn.Module):
    """Two layers: read(deeper(act(norm(write(front(x)))))); `front` and `deeper` start empty."""

    def __init__(
        self,
        activation: Activation,
        shape: tuple[int, int] = SHAPES["few inputs"],
        *,
        width: int = WIDTH,
        norm: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.front, self.deeper = nn.Sequential(), nn.Sequential()
        with torch.random.fork_rng(devices=[]):
            self.write, self.read = nn.Linear(shape[0], width), nn.Linear(width, shape[1])
        self.norm = nn.BatchNorm1d(width) if norm else None
        self.act = activation()
        _randomise(self.double().eval(), seed)

    def hidden(self, x: Tensor) -> Tensor:
        """What `read` is given: (N, I) to (N, C)."""
        x = self.write(self.front(x))
        y: Tensor = self.deeper(self.act(x if self.norm is None else self.norm(x)))
        return y

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, O) for (N, I)."""
        y: Tensor = self.read(self.hidden(x))
        return y


class Stream(nn.Module):
    """A residual connection: x = stem(x); x = shortcut(x) + body(x); head(x)."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            self.stem, self.head = nn.Linear(4, WIDTH), nn.Linear(WIDTH, 3)
        self.shortcut: nn.Module = nn.Identity()
        self.body = Small(nn.ReLU, (WIDTH, WIDTH), width=8)
        _randomise(self.double().eval(), seed=0)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, 3) for (N, 4)."""
        x = self.stem(x)
        y: Tensor = self.head(self.shortcut(x) + self.body(x))
        return y


def _randomise(net: nn.Module, seed: int) -> None:
    draw = generator(seed)
    for module in net.modules():
        if isinstance(module, nn.Linear | nn.BatchNorm1d):
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                if tensor.is_floating_point():
                    tensor.detach().normal_(generator=draw)
        if isinstance(module, nn.BatchNorm1d) and module.running_var is not None:
            module.running_var.abs_().add_(0.5)


def generator(seed: int) -> torch.Generator:
    """A random stream of its own."""
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int) -> Tensor:
    """Normal float64 numbers."""
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def inputs_of(net: Small | Stream, *, count: int = 64, seed: int = 1) -> Tensor:
    """Random examples: (count, I)."""
    first = net.write if isinstance(net, Small) else net.stem
    return normal(count, first.in_features, seed=seed)


@torch.no_grad()
def outputs(net: nn.Module, x: Tensor, *, training: bool = False) -> Tensor:
    """What a copy of the network gives, so that no running statistic moves."""
    y: Tensor = copy.deepcopy(net).train(training)(x)
    return y


def change(old: Small | Stream, new: nn.Module, *, training: bool = False) -> float:
    """max|change| / max|old output| on random examples that no method has seen."""
    x = inputs_of(old, seed=2)
    before, after = outputs(old, x, training=training), outputs(new, x, training=training)
    return float((before - after).abs().max() / before.abs().max())
