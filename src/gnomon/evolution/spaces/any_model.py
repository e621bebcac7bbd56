"""The search space around any model: branches, blocks and wider groups, found on its tape."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from gnomon.errors import Unsupported
from gnomon.evolution.mutations.add_branch import AddBranch
from gnomon.evolution.mutations.insert_block import InsertBlock
from gnomon.evolution.mutations.widen_group import WidenGroup
from gnomon.evolution.population.mutation import Mutation
from gnomon.ops.context import OpRule
from gnomon.planning.fingerprint import structure
from gnomon.recording.tape import Call, calls_of, record, wants_fake


@dataclass(frozen=True)
class AnyModel:
    """Any `nn.Module` and what can be made of it with its function kept.

    build:   makes the base network.
    example_inputs: as for `Grower`; two examples or more, if it has norms.
    classifier: the path of the module that each member has for itself; by default the last one with
             parameters that the forward calls; "" for none.
    hidden:  hidden channels of a new branch, as a share of its outputs.
    by:      how many channels a group gets, as a share of those it has.
    kernels: {side: odds} of new branches at convolutions.
    ops:     op rules of your own, as for `Grower`.
    """

    build: Callable[[], nn.Module]
    example_inputs: object
    classifier: str | None = None
    hidden: float = 0.5
    by: float = 0.25
    kernels: tuple[tuple[int, float], ...] = ((1, 0.30), (3, 0.35), (5, 0.35))
    ops: Mapping[str, OpRule] = field(default_factory=dict)
    mutations: tuple[type[Mutation[Any]], ...] = (AddBranch, InsertBlock, WidenGroup)

    def __post_init__(self) -> None:
        if not self.hidden > 0 or not self.by > 0:
            raise ValueError(f"hidden={self.hidden!r} and by={self.by!r} must be above 0")
        bad = [k for k, odds in self.kernels if k < 1 or k % 2 == 0 or odds < 0]
        if bad or not sum(odds for _, odds in self.kernels) > 0:
            raise ValueError(f"kernels={self.kernels}: pairs of an odd side and its odds")

    @cached_property
    def signature(self) -> str:
        """The base's structure, and the numbers here."""
        with torch.random.fork_rng(devices=[]):
            base = self.build()
        kinds = tuple(kind.__qualname__ for kind in self.mutations)
        numbers = (self.classifier, self.hidden, self.by, self.kernels, kinds)
        return f"AnyModel({type(base).__qualname__}, {structure(base)}, {numbers})"

    @property
    def calls(self) -> list[Call]:
        """The example inputs."""
        return calls_of(self.example_inputs)

    def examples(self, network: nn.Module) -> object:
        """The example inputs where the network is, as they were given."""
        device = next((p.device for p in network.parameters()), None)
        moved: object = pytree.tree_map_only(Tensor, lambda x: x.to(device), self.example_inputs)
        return moved

    def base(self) -> nn.Module:
        """What `build` makes. Raises Unsupported if that is no module."""
        base = self.build()
        if not isinstance(base, nn.Module):
            raise Unsupported(f"build() made a {type(base).__name__}, not a torch.nn.Module")
        return base

    def head(self, base: nn.Module) -> str:
        """The module of this name, or the last one with parameters of its own that is called."""
        if self.classifier is not None:
            return self.classifier
        calls = self.calls[:1]
        run = record(base, calls[0], training=False, fake=wants_fake(base, calls))
        paths = {id(m): path for path, m in base.named_modules()}
        own: list[str] = [paths[id(v.module)] for v in run.visits if v.module._parameters]
        if not own or not own[-1]:
            raise Unsupported(
                f"the classifier of {type(base).__name__} cannot be told: name it, "
                f"AnyModel(..., classifier=path), or '' if all is to be shared"
            )
        return own[-1]
