"""A zero residual block between modules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from gnomon.evolution.mutations.sites import sites_of
from gnomon.evolution.population.member import Member
from gnomon.evolution.population.mutation import Mutation
from gnomon.morphs import Deepen
from gnomon.share import share

if TYPE_CHECKING:
    from gnomon.evolution.spaces.any_model import AnyModel


@dataclass(frozen=True)
class InsertBlock(Mutation["AnyModel"]):
    """R2DeeperR: x + z(x) behind a module, with z like its neighbour and zero (see `Deepen`)."""

    after: str

    @classmethod
    def choices(cls, space: AnyModel, parent: Member) -> list[tuple[InsertBlock, float]]:
        """All modules in front of the classifier, but for containers."""
        sites = sites_of(parent, space.calls)
        return [(cls(s.path), 1.0) for s in sites if type(s.module) is not nn.Sequential]

    def grow(self, space: AnyModel, network: nn.Module, seed: int) -> nn.Module:
        """A student that shares all there is."""
        morph = Deepen(self.after)
        return share(network, morph, space.examples(network), seed=seed, ops=space.ops)
