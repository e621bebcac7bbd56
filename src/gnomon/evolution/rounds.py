"""One round of a search: members are asked for, trained together, evaluated and told."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gnomon.evolution.evolution import Evolution
from gnomon.evolution.joint.problem import Problem
from gnomon.evolution.joint.ranks import Alone, Ranks
from gnomon.evolution.joint.training import Joint, Trained, evaluate, recalibrate
from gnomon.evolution.population.member import Member


@dataclass(frozen=True)
class Round:
    """A round that is done: its members with their scores, and what training took."""

    number: int
    members: tuple[Member, ...]
    trained: Trained


@dataclass(frozen=True, eq=False)
class Judged:
    """How right a member is on each example, its BatchNorm statistics by name; both on the CPU."""

    correct: Tensor
    statistics: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = math.nan


Map = Callable[[Callable[[Any], Any], Sequence[Any]], list[Any]]


def play(
    evolution: Evolution, problem: Problem, *, ranks: Ranks | None = None, over: Map | None = None
) -> Round:
    """Play a round here. Raises Diverged, OverBudget.

    ranks: who else takes part in every step. over: like `map`, for the evaluation of members.
    """
    ranks, start = ranks or Alone(), (ranks or Alone()).clock()
    trained = train(evolution, problem, ranks)
    judge = partial(judged, problem=problem, key=evolution.key)
    found = (
        [judge(m) for m in evolution.members] if over is None else over(judge, evolution.members)
    )
    return told(evolution, trained, found, ranks.clock() - start)


def train(evolution: Evolution, problem: Problem, ranks: Ranks | None = None) -> Trained:
    """Ask for the members of the round, and train them together."""
    members = evolution.ask()
    return joint(evolution, problem, ranks).train(
        members, *evolution.key, "train", spent=evolution.spent
    )


def judged(member: Member, problem: Problem, key: tuple[object, ...]) -> Judged:
    """Recalibrate and evaluate a member. The key is the round's."""
    clock = Alone().clock
    start = clock()
    recalibrate(member, problem, *key, "recalibrate")
    correct = evaluate(member, problem)
    statistics = {name: b.detach().cpu() for name, b in member.network.named_buffers()}
    return Judged(correct, statistics, clock() - start)


@torch.no_grad()
def told(evolution: Evolution, trained: Trained, found: Sequence[Judged], seconds: float) -> Round:
    """End the round with what was found about its members, in their order, wherever it was."""
    members, number = evolution.members, evolution.round
    for member, one in zip(members, found, strict=True):
        for name, buffer in member.network.named_buffers():
            buffer.copy_(one.statistics[name])
    correct = {m.id: one.correct for m, one in zip(members, found, strict=True)}
    evolution.tell(correct, replace(trained.spent, seconds=seconds))
    return Round(number, evolution.members, trained)


def joint(evolution: Evolution, problem: Problem, ranks: Ranks | None = None) -> Joint:
    """The joint training of the present round."""
    ranks = ranks or Alone()
    return Joint(
        problem, evolution.optimizer, evolution.steps, evolution.budget, ranks.average, ranks
    )
