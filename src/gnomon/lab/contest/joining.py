"""An ensemble as an arm: made of the members of a finished search, then tested."""

from __future__ import annotations

import time
from functools import partial

import torch
from torch import nn

from gnomon.evolution import Evolution, Problem
from gnomon.evolution.ensemble import Average, Hierarchical, fit, greedy
from gnomon.lab.contest.contest import Ensemble
from gnomon.lab.contest.searching import loaded, posed, share_right
from gnomon.lab.contest.turn import Turn
from gnomon.lab.data.tasks import Task
from gnomon.lab.running.record import Record
from gnomon.lab.running.runs import Result
from gnomon.lab.training.compute import Cost, step_cost
from gnomon.lab.training.train import Measured


def joined(turn: Turn, entry: Ensemble, record: Record) -> Result:
    """Make the ensemble, train what is to be trained, and measure it; after a stop, anew."""
    evolution = loaded(turn, entry.of)
    task = turn.task.to(evolution.device or torch.device("cpu"))
    problem, start = posed(task, entry.batch), time.perf_counter()
    network, loss = _made(entry, evolution, problem, turn.seed)
    seconds = time.perf_counter() - start
    cost = _cost(entry, network, task)
    point = Measured(
        epoch=1,
        step=entry.steps,
        flops=cost.full,
        paper_flops=cost.papers,
        seconds=seconds,
        loss=loss,
        accuracy=share_right(network, problem, task.validation, task),
        parameters=sum(p.numel() for p in network.parameters()),
    )
    record.cut(0)
    turn.write(record, point)
    turn.told(point)
    return turn.close(record, share_right(network, problem, task.test, task))


def _made(
    entry: Ensemble, evolution: Evolution, problem: Problem, seed: int
) -> tuple[nn.Module, float]:
    """The ensemble, and the mean loss of its training, nan where there is none."""
    if entry.join == "greedy":
        return greedy([m.network for m in evolution.members], problem), float("nan")
    networks = [m.network for m in evolution.selected()]
    example = next(problem.held_out())[0]
    if entry.join == "average":
        return Average(networks, example), float("nan")
    network = Hierarchical(networks, example, seed=seed)
    adam = partial(torch.optim.Adam, lr=entry.lr)
    return network, fit(network, problem, steps=entry.steps, optimizer=adam, seed=seed)


def _cost(entry: Ensemble, network: nn.Module, task: Task) -> Cost:
    """FLOPs of training the top: its members' forward passes are most of it."""
    if not entry.steps:
        return Cost(0, 0)
    batch = task.train[: entry.batch]
    return step_cost(network, task.prepared(batch.inputs), batch.labels) * entry.steps
