"""More channels for a group, anywhere in a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from gnomon.evolution.population.member import Member
from gnomon.evolution.population.mutation import Mutation
from gnomon.grower import Grower
from gnomon.morphs import Widen
from gnomon.share import separate, share

if TYPE_CHECKING:
    from gnomon.evolution.spaces.any_model import AnyModel


@dataclass(frozen=True)
class WidenGroup(Mutation["AnyModel"]):
    """R2WiderR: new channels in cancelling pairs, as blocks beside the old weights (see `share`).

    group: its name, as `print(Grower(...))` shows it. add: how many channels.
    """

    group: str
    add: int

    @classmethod
    def choices(cls, space: AnyModel, parent: Member) -> list[tuple[WidenGroup, float]]:
        """All groups that can grow by R2R, with equal weights."""
        plain = separate(parent.network)
        grower = Grower(plain, space.examples(plain), ops=space.ops)
        found = []
        for group in grower.groups:
            if group.verdict == "growable" and "R2R" in group.rules:
                pairs = max(1, round(space.by * group.width / (2 * group.step)))
                found.append((cls(group.name, 2 * pairs * group.step), 1.0))
        return found

    def grow(self, space: AnyModel, network: nn.Module, seed: int) -> nn.Module:
        """A student that shares all there is."""
        morph = Widen(self.group, add=self.add)
        return share(network, morph, space.examples(network), seed=seed, ops=space.ops)
