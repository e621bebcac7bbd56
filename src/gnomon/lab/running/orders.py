"""What is to be run, as plain data that a process can be handed; and what it stands for."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from gnomon.lab.contest.bench import ContestBench
from gnomon.lab.contest.contest import Contest, Entry
from gnomon.lab.data.tasks import Task
from gnomon.lab.errors import BadFolder
from gnomon.lab.experiment import Arm, Experiment, Size
from gnomon.lab.running.runs import CHECKPOINT, RESULT, Bench, Runs
from gnomon.lab.shelf import Found, arms_of, entries_of, find, size_of
from gnomon.lab.training.machine import Machine


@dataclass(frozen=True)
class Run:
    """One arm with one seed."""

    arm: str
    seed: int

    def __str__(self) -> str:
        return f"{self.arm}, seed {self.seed}"


@dataclass(frozen=True)
class Order:
    """An experiment in a size, where its runs are kept and where its images lie.

    file: of the experiment: its arms hold functions, which each process reads from there.
    data: a local copy of the images; None for the name that the experiment gives.
    """

    file: Path
    preset: str
    seeds: tuple[int, ...]
    folder: Path
    data: str | None = None
    machine: Machine = field(default_factory=Machine)

    @property
    def declared(self) -> Experiment | Contest:
        """The declaration."""
        return _found(self.file).declared()

    @property
    def runs(self) -> Runs:
        """What the runs share, trainings or not."""
        return _bench(self) if isinstance(self.declared, Experiment) else _contest(self)

    @property
    def experiment(self) -> Experiment:
        """The declaration of trainings. Raises LabError for a contest."""
        return _found(self.file).trained()

    @property
    def arms(self) -> Mapping[str, Arm]:
        """All trainings of the experiment in this size."""
        return self.bench.arms

    @property
    def entries(self) -> Mapping[str, Entry]:
        """All arms of the contest in this size."""
        return _contest(self).arms

    @property
    def bench(self) -> Bench:
        """What trainings share."""
        return _bench(self)

    @property
    def cuda(self) -> bool:
        """Whether the runs compute on a GPU."""
        return here(self.machine.device).device == "cuda"

    def task(self, seed: int) -> Task:
        """The images, split by this seed; read once. Raises LabError if they are not there."""
        return _task(self, seed)

    def spread(self) -> int:
        """How many runs at once suit this machine: one on a GPU, else what its cores can do."""
        return 1 if self.cuda else max(1, cores() // self.declared.threads)


def here(device: str, precision: str = Machine.precision) -> Machine:
    """The machine with the device that auto stands for: a signature should name it."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return Machine(device, precision)


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.lru_cache(maxsize=4)
def _found(file: Path) -> Found:
    return find(str(file))


@functools.lru_cache(maxsize=4)
def _bench(order: Order) -> Bench:
    found = _found(order.file)
    size = replace(size_of(found, order.preset), seeds=order.seeds)
    return Bench(arms_of(found, size), found.trained().data, order.folder, order.machine)


@functools.lru_cache(maxsize=4)
def _contest(order: Order) -> ContestBench:
    found = _found(order.file)
    size = replace(size_of(found, order.preset), seeds=order.seeds)
    return ContestBench(entries_of(found, size), found.declared().data, order.folder, order.machine)


def runs_in(folder: Path, found: Found, size: Size) -> Runs:
    """The runs of an experiment or a contest in a folder, to be looked at."""
    declared = found.declared()
    if isinstance(declared, Contest):
        return ContestBench(entries_of(found, size), declared.data, folder)
    return Bench(arms_of(found, size), declared.data, folder)


@functools.lru_cache(maxsize=4)  # of five seeds of CIFAR-10, 180 MB each, one is read again
def _task(order: Order, seed: int) -> Task:
    return order.declared.data.task(order.data, seed)


def check_folder(folder: Path, *, resume: bool) -> None:
    """Refuse a folder that holds runs, unless they are to go on. Raises BadFolder."""
    if folder.exists() and not folder.is_dir():
        raise BadFolder(f"'{folder}' is not a folder. Choose another with --out.")
    held = sorted(folder.glob("*/seed-*/config.json"))
    if not held or resume:
        return
    over = sum((config.parent / RESULT).exists() for config in held)
    begun = sum((config.parent / CHECKPOINT).exists() for config in held) - over
    raise BadFolder(
        f"The folder '{folder}' holds runs already ({over} finished, {begun} begun). Add --resume "
        f"to go on with them, choose another with --out, or remove it."
    )
