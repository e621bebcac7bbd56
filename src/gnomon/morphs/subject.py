"""What a morph plans on: the model, what is known about it, and the means to look again."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from gnomon.fingerprint import fingerprint, structure
from gnomon.groups import Analysis, analyse
from gnomon.ops.context import Table
from gnomon.tape import Call


@dataclass(frozen=True, eq=False)
class Subject:
    """A model that was analysed on some calls."""

    model: nn.Module
    analysis: Analysis
    calls: list[Call]
    ops: Table

    @cached_property
    def fingerprint(self) -> str:
        """The digest of the model's structure and of its operations."""
        return fingerprint(structure(self.model), self.analysis)

    @property
    def device(self) -> torch.device:
        """Where the model's parameters are: those of new modules go there too."""
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    @property
    def parameters(self) -> int:
        """How many numbers the model learns."""
        return sum(p.numel() for p in self.model.parameters())

    @property
    def examples(self) -> int:
        """How many the first recorded call holds, as FLOPs are counted for one."""
        first = self.analysis.recordings[0].inputs[0]
        return max(1, first.shape[0]) if first.dim() else 1

    def again(self) -> Analysis:
        """The analysis of the model as it is now: a morph may try something and undo it."""
        return analyse(self.model, self.calls, self.ops)
