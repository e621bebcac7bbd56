"""The tasks of a search for other machines: pure functions, plain data in, plain data out.

A population travels as its checkpoint does, so networks need not be picklable, and a task that was
lost with its machine is done again with the same result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from gnomon.evolution.blueprint import Blueprint
from gnomon.evolution.evolution import Evolution
from gnomon.evolution.joint.problem import Problem
from gnomon.evolution.joint.training import Trained
from gnomon.evolution.population.birth import made_along
from gnomon.evolution.population.lineage import Step
from gnomon.evolution.population.member import Member
from gnomon.evolution.rounds import Judged, judged, train
from gnomon.evolution.saving import restore, state_of

State = dict[str, Any]  # as of `Evolution.state_dict`; its tensors are on the CPU


@dataclass(frozen=True)
class Manner:
    """How this process computes: with as many threads and the same modes, bits come out alike."""

    threads: int
    deterministic: bool
    matmul: str

    @classmethod
    def here(cls) -> Self:
        """That of this process."""
        return cls(
            torch.get_num_threads(),
            torch.are_deterministic_algorithms_enabled(),
            torch.get_float32_matmul_precision(),
        )

    def take(self) -> None:
        """Compute so, in a process that is there for this alone."""
        torch.set_num_threads(self.threads)
        torch.use_deterministic_algorithms(self.deterministic, warn_only=True)
        torch.set_float32_matmul_precision(self.matmul)


@dataclass(frozen=True, eq=False)
class Recipe:
    """One member as plain data: how its network is made, and its values by name."""

    way: tuple[Step, ...]
    tensors: dict[str, Tensor]


def state_on_cpu(evolution: Evolution) -> State:
    """Of a search, also of one whose round is open."""
    state = state_of(evolution)
    return {**state, "tensors": {name: x.cpu() for name, x in state["tensors"].items()}}


def recipe_of(evolution: Evolution, member: Member) -> Recipe:
    """What `judged_apart` needs of a member."""
    tensors = {name: x.detach().cpu().clone() for name, x in _named(member).items()}
    return Recipe(evolution.lineage.way(member.id, evolution.seed), tensors)


def trained_apart(blueprint: Blueprint, problem: Problem, state: State) -> tuple[State, Trained]:
    """Ask for the members of a round and train them; the state is then that of an open round."""
    evolution = Evolution.made_from(blueprint)
    restore(evolution, state)
    trained = train(evolution, problem)
    return state_on_cpu(evolution), trained


@torch.no_grad()
def judged_apart(
    blueprint: Blueprint, problem: Problem, recipe: Recipe, key: tuple[object, ...]
) -> Judged:
    """Recalibrate and evaluate a member."""
    member = made_along(blueprint.space, recipe.way, device=blueprint.device)
    for name, place in _named(member).items():
        place.copy_(recipe.tensors[name])
    return judged(member, problem, key)


def _named(member: Member) -> dict[str, Tensor]:
    """Parameters and buffers, those too that a state_dict leaves out."""
    return {**dict(member.network.named_parameters()), **dict(member.network.named_buffers())}
