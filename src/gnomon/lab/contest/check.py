"""What can be known before a contest starts: the data are there, each search can begin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from gnomon.errors import GrowthError
from gnomon.evolution import Budget
from gnomon.lab.contest.alone import network_of
from gnomon.lab.contest.contest import Alone, Ensemble, Entry, Search
from gnomon.lab.contest.searching import evolution_of
from gnomon.lab.data.tasks import Task
from gnomon.lab.errors import LabError
from gnomon.lab.running.orders import Order
from gnomon.lab.training.compute import step_flops
from gnomon.lab.training.machine import Machine
from gnomon.lab.training.starts import seeded


def check(order: Order, arms: Mapping[str, Entry], seeds: Sequence[int]) -> dict[str, int]:
    """Make every search and every network once; returns about how many epochs each will take.

    Raises LabError where an arm cannot run as declared, or the data are missing.
    """
    order.machine.fabric()
    if order.machine.precision != Machine.precision:
        raise LabError(
            f"The precision '{order.machine.precision}' cannot be used: searches compute in "
            f"{Machine.precision}. Leave out --precision."
        )
    task = order.task(seeds[0])
    for name, arm in arms.items():
        try:
            with seeded(seeds[0]):
                _try(arm, task, seeds[0])
        except (GrowthError, LabError) as error:
            raise LabError(f"The arm '{name}' cannot be run: {error}") from error
        except Exception as error:  # numbers of the experiment's own that make no network
            raise LabError(
                f"The arm '{name}' cannot be made: {type(error).__name__}: {error}"
            ) from error
    return {name: _epochs(arm, arms) for name, arm in arms.items()}


def _try(arm: Entry, task: Task, seed: int) -> None:
    if isinstance(arm, Search):
        evolution_of(arm, task, seed, budget=Budget(), device=torch.device("cpu"))
    elif isinstance(arm, Alone):
        batch = task.train[:2]
        step_flops(network_of(task), task.prepared(batch.inputs), batch.labels)


def _epochs(arm: Entry, arms: Mapping[str, Entry]) -> int:
    """Of a search: its rounds; of what takes as many FLOPs as one: as if its steps were alike."""
    if isinstance(arm, Ensemble):
        return 1
    search = arms[arm.like] if arm.like is not None else arm
    if not isinstance(search, Search):
        return search.recipe.epochs if isinstance(search, Alone) else 1
    settings = search.settings
    if isinstance(arm, Search):
        return settings.rounds + 1
    steps = settings.first_steps + settings.rounds * settings.steps
    return max(1, steps // (arm.recipe.steps or steps))
