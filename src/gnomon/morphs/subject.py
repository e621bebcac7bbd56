"""What a morph plans on: the model, what is known about it, and the means to look again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import nn

from gnomon.adding.making import Tried
from gnomon.analysis.flops import block_flops, grown_flops
from gnomon.analysis.groups import Analysis, analyse
from gnomon.ops.context import Table
from gnomon.planning.fingerprint import fingerprint, structure
from gnomon.recording.tape import Call


class Costs(NamedTuple):
    """What a plan says it costs, before and after."""

    parameters: tuple[int, int]
    flops: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Subject:
    """A model that was analysed on some calls.

    fresh: whether that was just now, so that nothing can have changed since.
    proved: whether the whole model will be run before and after: modules need not be run alone.
    tried: where a morph leaves modules that it has made to see whether they can be.
    """

    model: nn.Module
    analysis: Analysis
    calls: list[Call]
    ops: Table
    fresh: bool = False
    proved: bool = False
    tried: Tried = field(default_factory=Tried)

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
        return size(self.model)

    @property
    def examples(self) -> int:
        """How many the first recorded call holds, as FLOPs are counted for one."""
        first = self.analysis.recordings[0].inputs[0]
        return max(1, first.shape[0]) if first.dim() else 1

    def costs(self, new: nn.Module, shape: Sequence[int], old: nn.Module | None = None) -> Costs:
        """Parameters and forward FLOPs before and after a module comes, or one for another.

        shape: of what the modules are given.
        """
        work = block_flops(new, shape) - (block_flops(old, shape) if old is not None else 0)
        return self.costs_of(size(new) - (size(old) if old is not None else 0), work)

    def costs_of(self, parameters: int, flops: int) -> Costs:
        """The costs before, and with so many parameters and FLOPs more, of all examples."""
        held, (now, _) = self.parameters, grown_flops(self.analysis, {})
        return Costs((held, held + parameters), (now, now + flops // self.examples))

    def again(self) -> Analysis:
        """The analysis of the model as it is now: a morph may try something and undo it."""
        return analyse(self.model, self.calls, self.ops)


def size(module: nn.Module) -> int:
    """How many numbers a module learns."""
    return sum(p.numel() for p in module.parameters())
