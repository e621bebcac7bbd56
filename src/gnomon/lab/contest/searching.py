"""A search as an arm: round by round into its folder, then its best member on the test images."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import torch

from gnomon.evolution import Budget, Evolution, Member, Problem, Round, search
from gnomon.evolution.ensemble import right_of
from gnomon.evolution.joint.problem import Batch
from gnomon.lab.contest.contest import Search
from gnomon.lab.contest.turn import KNOWN, Known, Turn, measured
from gnomon.lab.data.tasks import Split, Task
from gnomon.lab.running.record import Record
from gnomon.lab.running.runs import Result
from gnomon.lab.search.folder import CHECKPOINT, LINEAGE, Folder
from gnomon.lab.search.problems import problem_of
from gnomon.lab.search.spaces import stages
from gnomon.lab.training.compute import Cost, step_cost
from gnomon.lab.training.train import Measured

EVALUATION_BATCH = 125  # convolutions of few channels take half of the time that 500 at once do


def begun(turn: Turn, arm: str) -> Evolution:
    """A search of the contest at its start. Raises GrowthError, LabError if it cannot begin."""
    entry = turn.bench.arms[arm]
    assert isinstance(entry, Search)  # `checked` saw to it
    known = entry.like and Known.of(turn.bench.place(entry.like, turn.seed))
    budget = Budget(training_flops=known.flops) if known else Budget()
    device = turn.bench.machine.fabric().device
    return evolution_of(entry, turn.task, turn.seed, budget=budget, device=device)


def evolution_of(
    entry: Search, task: Task, seed: int, *, budget: Budget, device: torch.device
) -> Evolution:
    """A search at its start. Raises GrowthError, LabError if it cannot begin."""
    return Evolution(
        stages(task),
        partial(torch.optim.Adam, lr=entry.lr, weight_decay=entry.weight_decay),
        select=entry.select,
        settings=entry.settings,
        budget=budget,
        seed=seed,
        device=device,
    )


def searched(turn: Turn, entry: Search, record: Record) -> Result:
    """Search to the end, from the last round that is saved."""
    evolution, checkpoint = begun(turn, turn.arm), record.path(CHECKPOINT)
    if checkpoint.exists():
        evolution.load(checkpoint)
    Folder(turn.place).cut(record, evolution.round)
    task = turn.task.to(evolution.device or torch.device("cpu"))
    problem, meter = posed(task, entry.batch), Meter(task, entry.batch)
    for done in search(evolution, problem):
        point = _point(evolution, done, meter.of(done), measured(record))
        turn.write(record, point)
        record.json(LINEAGE, {"births": evolution.lineage.to_json()})
        evolution.save(checkpoint)
        turn.told(point)
    record.json(KNOWN, asdict(_known(evolution, record)))
    return turn.close(record, share_right(evolution.best.network, problem, task.test, task))


def posed(task: Task, batch: int) -> Problem:
    """The images as a problem: batches of training images, compared on validation images."""
    return replace(problem_of(task, batch), validation=_batches(task, task.validation))


def share_right(network: torch.nn.Module, problem: Problem, split: Split, task: Task) -> float:
    """The share of a split that a network gets right, in eval mode."""
    asked = replace(problem, validation=_batches(task, split))
    return float(right_of(network, asked).double().mean())


def _batches(task: Task, split: Split) -> Callable[[], Iterator[Batch]]:
    def begin() -> Iterator[Batch]:
        for part in split.batches(EVALUATION_BATCH):
            yield task.prepared(part.inputs), part.labels

    return begin


@dataclass
class Meter:
    """FLOPs of joint training, counted as those of trainings alone: each member's own steps."""

    task: Task
    batch: int
    costs: dict[int, Cost] = field(default_factory=dict)

    def of(self, done: Round) -> Cost:
        """What a round took; evaluations, and batches for the statistics of norms, aside."""
        total = Cost(0, 0)
        for member in done.members:
            if steps := done.trained.steps.get(member.id, 0):
                total += self._step(member) * steps
        return total

    def _step(self, member: Member) -> Cost:
        if member.id not in self.costs:
            batch = self.task.train[: self.batch]
            images = self.task.prepared(batch.inputs)
            self.costs[member.id] = step_cost(member.network, images, batch.labels)
        return self.costs[member.id]


def _point(evolution: Evolution, done: Round, cost: Cost, before: Sequence[Measured]) -> Measured:
    """The best member after a round, and what the search has taken by then."""
    last = before[-1] if before else Measured()
    steps, losses, best = done.trained.steps, done.trained.losses, evolution.best
    total = sum(steps.values())
    return Measured(
        epoch=evolution.round,
        step=evolution.spent.steps,
        flops=last.flops + cost.full,
        paper_flops=last.paper_flops + cost.papers,
        seconds=evolution.spent.seconds,
        loss=sum(losses[i] * steps[i] for i in losses) / max(1, total),
        accuracy=best.score,
        parameters=best.size.parameters,
    )


def _known(evolution: Evolution, record: Record) -> Known:
    largest = max(evolution.members, key=lambda m: (m.size.parameters, -m.id))
    path = evolution.lineage.path(largest.id)
    return Known(
        evolution.spent.flops,
        measured(record)[-1].flops,
        tuple(json.dumps(birth.mutation) for birth in path if birth.mutation is not None),
        evolution.ended,
    )


def loaded(turn: Turn, arm: str) -> Evolution:
    """A finished search of the same seed, as it ended. Raises GrowthError, LabError."""
    evolution = begun(turn, arm)
    place: Path = turn.bench.place(arm, turn.seed)
    evolution.load(place / CHECKPOINT)
    return evolution
