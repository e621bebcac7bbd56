"""Several layers side by side: their outputs are added, or stand one behind the other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn


class Paths(nn.Module):
    """What all paths make of one input.

        x ──┬── path 0 ──┐
            ├── path 1 ──┼── y        join="sum": added; join="cat": concatenated channels
            └── path 2 ──┘

    dim: where the channels stand when they are concatenated.
    """

    def __init__(
        self, paths: Iterable[nn.Module], *, join: Literal["sum", "cat"] = "sum", dim: int = 1
    ) -> None:
        super().__init__()
        if join not in ("sum", "cat"):
            raise ValueError(f"join must be 'sum' or 'cat', not {join!r}")
        self.paths = nn.ModuleList(paths)
        if not self.paths:
            raise ValueError("Paths needs at least one path")
        self.join, self.dim = join, dim

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of the paths' outputs, or their concatenation along `dim`."""
        outputs = [path(x) for path in self.paths]
        if self.join == "cat":
            return torch.cat(outputs, self.dim)
        total: Tensor = outputs[0]
        for y in outputs[1:]:
            total = total + y
        return total

    def extra_repr(self) -> str:
        """Show how the paths are joined."""
        return f"join={self.join!r}"
