"""Algorithm 1 on one machine: train, evaluate, tell, save, round after round."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from gnomon.evolution.evolution import Evolution
from gnomon.evolution.member import Member
from gnomon.evolution.problem import Problem
from gnomon.evolution.training import Joint, Trained, evaluate, recalibrate


@dataclass(frozen=True)
class Round:
    """A round that is done: its members with their scores, and what training took."""

    number: int
    members: tuple[Member, ...]
    trained: Trained


def search(
    evolution: Evolution, problem: Problem, *, path: str | os.PathLike[str] | None = None
) -> Iterator[Round]:
    """Go on until the search is done, a round at a time.

    path: where the search is saved after each round; `evolution.load(path)` goes on from there.
    Raises Diverged.
    """
    while not evolution.done:
        start = time.perf_counter()
        members, number = evolution.ask(), evolution.round
        trained = joint(evolution, problem).train(
            members, *evolution.key, "train", spent=evolution.spent
        )
        correct = {}
        for member in members:
            recalibrate(member, problem, *evolution.key, "recalibrate")
            correct[member.id] = evaluate(member, problem)
        seconds = time.perf_counter() - start
        evolution.tell(correct, replace(trained.spent, seconds=seconds))
        if path is not None:
            evolution.save(path)
        yield Round(number, evolution.members, trained)


def joint(evolution: Evolution, problem: Problem) -> Joint:
    """The joint training of the present round."""
    return Joint(problem, evolution.optimizer, evolution.steps, evolution.budget)
