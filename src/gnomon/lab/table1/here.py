"""The same transforms by gnomon's public interface."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from torch import nn

from gnomon.adding.neighbour import slope_of_odd_part
from gnomon.errors import GrowthError
from gnomon.grower import Grower, Morph
from gnomon.lab.table1.method import ADDED, Refused
from gnomon.lab.table1.networks import NewLayers, Small, Stream, inputs_of
from gnomon.morphs import Deepen, Factor, Widen
from gnomon.rules import Net2Net, NetMorph, Rule

Net = TypeVar("Net", Small, Stream)


@dataclass(frozen=True)
class Here:
    """A rule of gnomon; what it refuses is `Refused`, and nothing else is trusted."""

    rule: Rule

    @property
    def name(self) -> str:
        """As in the paper's table."""
        return type(self.rule).__name__

    def widen(self, net: Small, add: int, seed: int = 0) -> Small:
        """More channels between `write` and `read`."""
        return _grown(net, Widen("write", add=add, rule=self.rule), seed=seed)

    def widen_stream(self, net: Stream) -> Stream:
        """More channels in a residual stream."""
        return _grown(net, Widen("stem", add=ADDED, rule=self.rule))

    def deepen(self, net: Small, new: NewLayers) -> tuple[Small, str]:
        """More layers behind `act`, and which of two ways was taken."""
        if isinstance(self.rule, NetMorph):
            return self._factor(net, "read", net.read, new)
        return self._deepen(net, "act", net.read.in_features, new)

    def deepen_stream(self, net: Stream, new: NewLayers) -> Stream:
        """More layers beside a residual connection."""
        if isinstance(self.rule, NetMorph):
            return self._factor(net, "body.read", net.body.read, new)[0]
        return self._deepen(net, "body.act", net.body.read.in_features, new)[0]

    def _factor(self, net: Net, at: str, layer: nn.Linear, new: NewLayers) -> tuple[Net, str]:
        """Network morphism adds layers by making several of one."""
        widths = (2 * max(layer.in_features, layer.out_features),) * new.layers
        morph = Factor(at, mid=widths, activation=new.activation(), norm=new.norm)
        kind = "antisymmetric pairs" if slope_of_odd_part(new.activation()) else "P-activation"
        return _grown(net, morph, examples=new.examples), kind

    def _deepen(self, net: Net, at: str, width: int, new: NewLayers) -> tuple[Net, str]:
        identity = isinstance(self.rule, Net2Net)
        ways = _identities(width, new) if identity else _branches(width, new)
        reasons = []
        for way, block in ways:
            count = new.layers if identity else 1
            try:
                morph = Deepen(at, rule=self.rule, block=block, count=count)
            except ValueError:
                raise Refused(f"`Deepen` does not take `{self.rule!r}` yet") from None
            try:
                return _grown(net, morph, examples=new.examples), way
            except Refused as refusal:
                reasons.append(str(refusal))
        raise Refused("; ".join(reasons))


def _grown(net: Net, morph: Morph, *, seed: int = 0, examples: int = 64) -> Net:
    model = copy.deepcopy(net)
    try:
        Grower(model, inputs_of(net, count=examples)).grow(morph, seed=seed)
    except GrowthError as refusal:
        raise Refused(str(refusal)) from None
    return model


def _branches(width: int, new: NewLayers) -> Iterator[tuple[str, nn.Module]]:
    """Blocks that may start at zero: with the activation last, or with a plain layer last."""
    norm = [nn.BatchNorm1d(width)] if new.norm else []
    body: list[nn.Module] = []
    for _ in range(new.layers - 1):
        body += [nn.Linear(width, width), *copy.deepcopy(norm), new.activation()]
    last = nn.Linear(width, width)
    yield "ending in f", nn.Sequential(*body, last, new.activation())
    yield "f inside only", nn.Sequential(*body, last)


def _identities(width: int, new: NewLayers) -> Iterator[tuple[str, nn.Module]]:
    """Layers that may start as the identity: one, or an antisymmetric pair around f."""
    norm = [nn.BatchNorm1d(width)] if new.norm else []
    yield "one layer", nn.Sequential(nn.Linear(width, width), *norm, new.activation())
    wide = nn.Linear(width, 2 * width), new.activation(), nn.Linear(2 * width, width)
    yield "two layers", nn.Sequential(*wide)
