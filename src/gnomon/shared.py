"""Parameters that are computed from a teacher's own and new blocks beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gnomon.errors import Stale


@dataclass(frozen=True, eq=False)
class Step:
    """A block that stands behind what is there, along one dimension.

    order: (K,) index of each channel among the old ones followed by the new; None if it is just so.
    """

    dim: int
    block: nn.Parameter
    order: Tensor | None


class Blocks(nn.Module):
    """A grown parameter, computed from the teacher's own and one block per growing dimension.

        | teacher's own |  block 1  |      rows first: block 0 below the old rows,
        |---------------|           |      then block 1 beside both
        |    block 0    |           |

    siblings: the module's parameters in their order, in which `separate` puts them back.
    """

    def __init__(self, old: Tensor, steps: Sequence[Step], siblings: Sequence[str]) -> None:
        super().__init__()
        self.shape, self.siblings = tuple(old.shape), tuple(siblings)
        self.dims = tuple(step.dim for step in steps)
        for i, step in enumerate(steps):
            self.register_parameter(f"block{i}", step.block)
            self.register_buffer(f"order{i}", step.order, persistent=False)

    @property
    def steps(self) -> tuple[Step, ...]:
        """The blocks in the order in which they are joined."""
        own, orders = self._parameters, self._buffers
        found = []
        for i, dim in enumerate(self.dims):
            block = own[f"block{i}"]
            assert block is not None
            found.append(Step(dim, block, orders[f"order{i}"]))
        return tuple(found)

    def forward(self, old: Tensor) -> Tensor:
        """The whole parameter. Raises Stale if the teacher's was resized meanwhile."""
        if tuple(old.shape) != self.shape:
            raise Stale(
                f"a shared parameter of shape {self.shape} was resized to {tuple(old.shape)}: a "
                f"teacher with students cannot grow in place, share it again or grow a copy"
            )
        for step in self.steps:
            old = torch.cat([old, step.block], step.dim)
            if step.order is not None:
                old = old.index_select(step.dim, step.order)
        return old

    def extra_repr(self) -> str:
        return f"{self.shape} and blocks along {self.dims}"
