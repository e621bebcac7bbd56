"""A new stage behind another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from gnomon.blocks import R2RBlock, Residual
from gnomon.evolution.population.member import Member
from gnomon.evolution.population.mutation import Mutation

if TYPE_CHECKING:
    from gnomon.evolution.spaces.stages import Stages


@dataclass(frozen=True)
class DeepenStage(Mutation["Stages"]):
    """R2DeeperR: a residual stage of one block that starts at zero, right behind a stage.

        y ──┬───────────┐
            └── block ──+ ── y + z(y),  z = 0      in front of the pooling, if there is one

    stage: counted from the input, those that were put in included. kernel: its side.
    """

    stage: int
    kernel: int

    @classmethod
    def choices(cls, space: Stages, parent: Member) -> list[tuple[DeepenStage, float]]:
        """Stages uniformly, kernels by the space's odds."""
        places = space.places(parent.network)
        return [(cls(stage, kernel), weight) for stage, kernel, weight in places]

    def grow(self, space: Stages, network: nn.Module, seed: int) -> nn.Module:
        """Insert the stage."""
        stages = space.network(network)
        body = stages.stages[self.stage].body
        assert isinstance(body, R2RBlock)
        new = Residual(space.block(body.outputs, body.outputs, self.kernel))
        new.to(next(body.parameters())).train(body.training)
        stages.insert(self.stage, new)
        return network
