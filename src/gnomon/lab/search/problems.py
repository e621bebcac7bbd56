"""The data of a task as a problem of a search."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from gnomon.evolution import Problem
from gnomon.evolution.joint.problem import Batch
from gnomon.lab.data.tasks import Split, Task

EVALUATION_BATCH = 500


def problem_of(task: Task, batch: int) -> Problem:
    """Batches drawn with replacement from the training split; members are compared on validation.

    Images stay bytes, where the task is, and are normalised as they are used.
    """

    def drawn(generator: torch.Generator) -> Batch:
        rows = torch.randint(len(task.train), (batch,), generator=generator, device="cpu")
        chosen = task.train[rows.to(task.train.labels.device)]
        return task.prepared(chosen.inputs), chosen.labels

    return Problem(drawn, _batches(task, task.validation), loss=task.loss)


def on_test(problem: Problem, task: Task) -> Problem:
    """The same, but correctness is that on the test split."""
    return replace(problem, validation=_batches(task, task.test))


def _batches(task: Task, split: Split) -> Callable[[], Iterator[Batch]]:
    def begin() -> Iterator[Batch]:
        for part in split.batches(EVALUATION_BATCH):
            yield task.prepared(part.inputs), part.labels

    return begin
