"""The three transforms as their papers describe them, in plain tensors.

R2R       000: Painter, Towards a More Complete Theory of Function Preserving Transforms
Net2Net   Chen, Goodfellow, Shlens 2016, as 000 retells it in sections 4.1 and 6.1
NetMorph  003: Wei, Wang, Rui, Chen, Network Morphism
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from gnomon.blocks import Residual
from gnomon.lab.table1.method import ADDED, Refused
from gnomon.lab.table1.networks import NewLayers, Small, Stream, generator, inputs_of
from gnomon.lab.table1.tensors import (
    Hidden,
    hidden,
    layer,
    linear,
    norm_of,
    reader_of,
    undoing,
    uniform,
    writer_of,
)


class Published(ABC):
    """One paper's way to widen and to deepen; nothing checks that the function is kept."""

    name: ClassVar[str]

    @abstractmethod
    def grown(self, old: Hidden, add: int, draw: torch.Generator) -> Hidden:
        """More channels. Raises Refused for a number of them that the paper does not allow."""

    @abstractmethod
    def insert(self, net: Small, new: NewLayers, draw: torch.Generator) -> None:
        """More layers, in place. Raises Refused for a number that the paper does not allow."""

    def widen(self, net: Small, add: int, seed: int = 0) -> Small:
        """More channels between `write` and `read`."""
        wider = copy.deepcopy(net)
        new = self.grown(hidden(net.write, net.read, net.norm), add, generator(seed))
        wider.write, wider.read = writer_of(new), reader_of(new, net.read)
        wider.norm = None if net.norm is None else norm_of(new.channels)
        return wider

    def widen_stream(self, net: Stream) -> Stream:
        """More channels in a residual stream: for each of its two writers by itself."""
        wider, draw = copy.deepcopy(net), generator(0)
        first = self.grown(hidden(net.stem, net.body.write), ADDED, draw)
        last = self.grown(hidden(net.body.read, net.head), ADDED, draw)
        wider.stem, wider.body.write = writer_of(first), reader_of(first, net.body.write)
        wider.body.read, wider.head = writer_of(last), reader_of(last, net.head)
        return wider

    def deepen(self, net: Small, new: NewLayers) -> tuple[Small, str]:
        """More layers behind `act`; there is one way."""
        deeper = copy.deepcopy(net)
        self.insert(deeper, new, generator(0))
        return deeper, ""

    def deepen_stream(self, net: Stream, new: NewLayers) -> Stream:
        """More layers beside a residual connection."""
        deeper = copy.deepcopy(net)
        self.insert(deeper.body, new, generator(0))
        return deeper


@dataclass(frozen=True)
class PaintersR2R(Published):
    """R2WiderR (eq. 8 to 13) and R2DeeperR (eq. 19 to 27)."""

    name: ClassVar[str] = "R2R"

    def grown(self, old: Hidden, add: int, draw: torch.Generator) -> Hidden:
        """[W; U; U] and [V, Y, -Y]."""
        if add % 2:
            raise Refused("channels come in pairs")
        u = uniform((add // 2, old.rows.shape[1]), old.rows, draw)
        y = uniform((old.columns.shape[0], add // 2), old.columns, draw)
        return Hidden(
            torch.cat([old.rows, u, u]), more(old.channels, add), torch.cat([old.columns, y, -y], 1)
        )

    def widen_stream(self, net: Stream) -> Stream:
        """Only the first writer: the shortcut becomes x + x_L - x_R (eq. 17; it needs E = C)."""
        wider, old = copy.deepcopy(net), hidden(net.stem, net.body.write)
        new = self.grown(old, 2 * len(old.rows), generator(0))
        wider.stem, wider.body.write = writer_of(new), reader_of(new, net.body.write)
        wider.shortcut = Cancelling()
        return wider

    def insert(self, net: Small, new: NewLayers, draw: torch.Generator) -> None:
        """x + z(x): the last two layers of z cancel, all have the activation.

        The last bias is one vector of zeros; eq. 20 prints [c, -c], which has the wrong shape.
        """
        if new.layers < 2:
            raise Refused("two layers are needed to cancel")
        n, like = net.read.in_features, net.write.weight
        rows = [uniform((n, n + 1), like, draw) for _ in range(new.layers - 2)]
        u, y = uniform((n // 2, n + 1), like, draw), uniform((n, n // 2), like, draw)
        body = [m for r in (*rows, torch.cat([u, u])) for m in layer(r, new)]
        body += layer(torch.cat([y, -y, y.new_zeros(n, 1)], 1), NewLayers(new.activation))
        net.deeper.append(Residual(nn.Sequential(*body)).eval())


@dataclass(frozen=True)
class ChensNet2Net(Published):
    """Net2WiderNet (000, eq. 6) and Net2DeeperNet."""

    name: ClassVar[str] = "Net2Net"

    def grown(self, old: Hidden, add: int, draw: torch.Generator) -> Hidden:
        """W[g], and V[g] divided by the number of copies; g is random."""
        n = len(old.rows)
        g = torch.cat([torch.arange(n), torch.randint(n, (add,), generator=draw)])
        copies = torch.bincount(g, minlength=n)
        return Hidden(old.rows[g], old.channels[g], (old.columns / copies)[:, g])

    def insert(self, net: Small, new: NewLayers, draw: torch.Generator) -> None:
        """Identity layers; a BatchNorm undoes the statistics of one batch, seen beforehand."""
        identity = torch.eye(net.read.in_features, net.read.in_features + 1, dtype=torch.float64)
        for _ in range(new.layers):
            modules = layer(identity, new)
            if new.norm:
                with torch.no_grad():
                    seen = copy.deepcopy(net).train().hidden(inputs_of(net, count=new.examples))
                modules[1] = undoing(seen)
            net.deeper.extend(modules)


@dataclass(frozen=True)
class WeisNetMorph(Published):
    """Width by zeros (003, 3.4.1), depth by decomposition and P-activations (003, 3.2 and 3.3)."""

    shuffles: bool = True

    name: ClassVar[str] = "NetMorph"

    def grown(self, old: Hidden, add: int, draw: torch.Generator) -> Hidden:
        """Zeros on the side with fewer weights, random on the other; then all are shuffled."""
        u = uniform((add, old.rows.shape[1]), old.rows, draw)
        y = uniform((old.columns.shape[0], add), old.columns, draw)
        (u if old.rows.shape[1] - 1 < old.columns.shape[0] else y).zero_()
        n = len(old.rows) + add
        p = torch.randperm(n, generator=draw) if self.shuffles else torch.arange(n)
        columns = torch.cat([old.columns, y], 1)
        return Hidden(torch.cat([old.rows, u])[p], more(old.channels, add)[p], columns[:, p])

    def insert(self, net: Small, new: NewLayers, draw: torch.Generator) -> None:
        """G = F2 F1 for `write`, with twice the channels between and a P-activation."""
        for _ in range(new.layers):
            c, g = net.write.out_features, net.write
            f2 = uniform((c, 2 * c), g.weight, draw)
            f1 = torch.linalg.pinv(f2) @ g.weight
            net.write = linear(f2, g.bias)
            linear_at_first = PActivation(new.activation().double().eval())
            net.front.extend([linear(f1, f1.new_zeros(2 * c)), linear_at_first])


class PActivation(nn.Module):
    """(1 - a) f(x) + a x, with a = 1 at the start (003, 3.3)."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation
        self.a = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """Return a mixture of f(x) and x."""
        y: Tensor = (1 - self.a) * self.activation(x) + self.a * x
        return y


class Cancelling(nn.Module):
    """r(x) = x + x_L - x_R on three equal parts (000, eq. 17)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C) for (N, 3 C)."""
        x, left, right = x.chunk(3, dim=-1)
        return x + left - right


def more(channels: Tensor, add: int) -> Tensor:
    """BatchNorm for new channels as PyTorch starts it: gain 1, shift 0, mean 0, variance 1."""
    start = channels.new_tensor([1.0, 0.0, 0.0, 1.0])[: channels.shape[1]]
    return torch.cat([channels, start.repeat(add, 1)])
