"""One more R2R block in parallel to those of a stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from gnomon.blocks import R2RBlock
from gnomon.evolution.population.member import Member
from gnomon.evolution.population.mutation import Mutation

if TYPE_CHECKING:
    from gnomon.evolution.spaces.stages import Stages


@dataclass(frozen=True)
class WidenStage(Mutation["Stages"]):
    """R2WiderR: a block that starts at zero, beside the blocks of one stage.

        x ──┬── skip ───┐
            ├── block ──+ ── y       y = skip(x) + F(x) + z(x),  z = 0
            └── new ────┘

    stage: counted from the input, those that were put in included. kernel: its side.
    """

    stage: int
    kernel: int

    @classmethod
    def choices(cls, space: Stages, parent: Member) -> list[tuple[WidenStage, float]]:
        """Stages uniformly, kernels by the space's odds."""
        places = space.places(parent.network)
        return [(cls(stage, kernel), weight) for stage, kernel, weight in places]

    def grow(self, space: Stages, network: nn.Module, seed: int) -> nn.Module:
        """Add the block to the stage."""
        body = space.network(network).stages[self.stage].body
        assert isinstance(body, R2RBlock)
        body.add(space.new_hidden(body.outputs), kernel_size=self.kernel)
        return network
