"""One arm, one seed, one folder: trained to the end, however often it is interrupted.

    config.json       what was asked; a resumed run must ask the same
    signature.json    versions, commit and machine
    metrics.jsonl     a line per epoch and growth, cut back to the checkpoint on resuming
    tensorboard/      the same as event files
    checkpoint.pt     all that the next epoch depends on: text and tensors, no pickled objects
    result.json       written last: its presence says that the run is complete
    growth-N.txt      the receipt of the N-th growth

Every file but the metrics is written under a temporary name and renamed. A lock that the system
takes back when a process dies keeps two runs out of one folder.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from torch import nn

from gnomon.adjustments import in_order
from gnomon.checkpoint import save
from gnomon.errors import BadCheckpoint, GrowthError
from gnomon.lab.data.sources import Data
from gnomon.lab.data.tasks import Task
from gnomon.lab.errors import BadFolder, LabError
from gnomon.lab.experiment import Arm, Begun, Budget, Start, blocks_of, root
from gnomon.lab.running.board import Board
from gnomon.lab.running.lock import alone
from gnomon.lab.running.record import Json, Record, numbers, plain, read_json, signature
from gnomon.lab.training.compute import step_flops
from gnomon.lab.training.machine import Machine
from gnomon.lab.training.recipe import Recipe
from gnomon.lab.training.starts import seeded
from gnomon.lab.training.train import Measured, Round, Training, regrown, score
from gnomon.schedule import Timeline

CONFIG, CHECKPOINT, RESULT = "config.json", "checkpoint.pt", "result.json"
TESTED, TEST_LOSS = "test_accuracy", "test_loss"
Tell = Callable[[Round], None]


@dataclass(frozen=True)
class Result(Measured):
    """The last measurement of a finished run, and what it did on the test split, if it looked.

    test_loss: the mean cross-entropy in nats; runs of earlier versions lack it.
    """

    test_accuracy: float | None = None
    test_loss: float | None = None


class Runs(Protocol):
    """What processes and pages need to know of runs of any kind."""

    @property
    def arms(self) -> Mapping[str, Begun]:
        """By name, each behind the one that it starts from."""

    @property
    def folder(self) -> Path:
        """Holds a folder per arm, and in it one per seed."""

    def place(self, arm: str, seed: int) -> Path:
        """The folder of one run."""

    def run(self, arm: str, seed: int, task: Task, *, tell: Tell) -> Result:
        """Run an arm to its end, from where it was stopped. A finished run is read back."""


@dataclass(frozen=True)
class Bench:
    """What the runs of one experiment share: its arms, the images, and where to compute.

    folder: holds a folder per arm, and in it one per seed.
    """

    arms: Mapping[str, Arm]
    data: Data
    folder: Path
    machine: Machine = field(default_factory=Machine)

    def place(self, arm: str, seed: int) -> Path:
        """The folder of one run."""
        return place_of(self.folder, arm, seed)

    def recipe(self, arm: str, seed: int, task: Task) -> Recipe:
        """The recipe of an arm with its seed, and its budget in FLOPs."""
        asked = self.arms[arm]
        recipe = replace(asked.recipe, seed=seed)
        if asked.budget is None:
            return recipe
        return replace(recipe, flops=budget_flops(asked.budget, task, recipe))

    def config(self, arm: str, seed: int, task: Task) -> Json:
        """What decides about a run, as text and numbers."""
        asked = self.arms[arm]
        return {
            "arm": arm,
            "seed": seed,
            "data": asdict(self.data),
            "recipe": asdict(self.recipe(arm, seed, task)),
            "network": _described(asked.network),
            "schedule": _lasting(repr(asked.schedule)),
            "after": _lasting(repr(in_order(asked.after))),
            "carry": bool(asked.start and asked.start.carry),
            "start": asked.start and self.config(asked.start.arm, seed, task),
            "snapshots": asked.snapshots,
            "tests": asked.tests,
            "precision": self.machine.precision,
            "threads": torch.get_num_threads(),
        }

    def run(self, arm: str, seed: int, task: Task, *, tell: Tell = lambda _: None) -> Result:
        """Run an arm to its end, from its checkpoint if it has one. A finished run is read back.

        Raises LabError where the arm it starts from is not finished, where the folder holds a run
        of other settings, is in use, or cannot be written to.
        """
        with alone(self.place(arm, seed), "run"), seeded(seed):
            run = _Run(self, arm, seed, task, tell)
            if (run.place / RESULT).exists():
                return finished(run.place)
            return run.to_the_end()


def place_of(folder: Path, arm: str, seed: int) -> Path:
    """Where a run lies in the folder of all runs."""
    return folder / arm.replace("/", "-") / f"seed-{seed}"


def finished(place: Path) -> Result:
    """Read the result of a run back. Raises LabError if it is not complete."""
    try:
        content = json.loads((place / RESULT).read_text(encoding="utf-8"))
        tests = {
            name: content.pop(name, None) for name in (TESTED, TEST_LOSS)
        }  # None: nobody looked
        return Result(**numbers(content), **tests)
    except FileNotFoundError:
        raise LabError(f"The run in '{place}' is not finished: go on with --resume.") from None
    except (ValueError, TypeError, AttributeError, OSError) as error:
        raise LabError(
            f"The result '{place / RESULT}' cannot be read ({error}). Remove it, then go on with "
            f"--resume: it is written anew."
        ) from None


class _Run:
    """One run between its lock and its result."""

    def __init__(self, bench: Bench, arm: str, seed: int, task: Task, tell: Tell) -> None:
        self.bench, self.name, self.seed, self.task, self.tell = bench, arm, seed, task, tell
        self.arm = bench.arms[arm]
        self.place = bench.place(arm, seed)
        self.recipe = bench.recipe(arm, seed, task)
        self.record = Record.opened(self.place)
        begin(self.record, bench.config(arm, seed, task), bench.machine)

    def to_the_end(self) -> Result:
        training, lines = self._begin()
        self.record.cut(lines)
        first = training.spent.step + training.begun  # the step of the next measurement, or less
        with Board(self.place / "tensorboard", first) as board:
            for round in training.rounds():
                self._write(round, training, board)
                self._save(training)
                self.tell(round)
        return self._close(training)

    def _begin(self) -> tuple[Training, int]:
        """The training as it was saved, or at its start; and how long the metrics were then."""
        own = self.place / CHECKPOINT
        if own.exists():
            return self._resumed(own)
        if self.arm.start is None:
            return self._training(), 0
        return self._started(self.arm.start), 0

    def _resumed(self, path: Path) -> tuple[Training, int]:
        with _understood(path):
            state = _loaded(path)
            training = self._training(state["training"])
            training.load_state_dict(state["training"])
            return training, int(state["lines"])

    def _started(self, start: Start) -> Training:
        """The training that begins with what another run has left."""
        place = self.bench.place(start.arm, self.seed)
        finished(place)
        before = read_json(place / CONFIG) or {}
        refuse_others(place, before, self.bench.config(start.arm, self.seed, self.task))
        with _understood(place / CHECKPOINT):
            state = _loaded(place / CHECKPOINT)["training"]
            training = self._training(state)
            training.inherit(state, carry=start.carry)
            return training

    def _training(self, state: Mapping[str, Any] | None = None) -> Training:
        """A training of the first network, in the shapes of a checkpoint."""
        model, asked = root(self.bench.arms, self.name)(self.task), self.arm
        timeline = Timeline(asked.schedule, self.seed, asked.after) if asked.schedule else None
        return Training(
            model, self.task, self.recipe,
            machine=self.bench.machine, timeline=timeline,
            history=regrown(model, state, blocks_of(self.bench.arms, self.name)) if state else (),
        )  # fmt: skip

    def _write(self, round: Round, training: Training, board: Board) -> None:
        point = asdict(round.point)
        self.record.write(event="epoch", **point)
        board.write(point)
        first = len(training.history) - len(round.growths) + 1
        for count, grown in enumerate(round.growths, first):
            self.record.text(f"growth-{count}.txt", f"{grown.receipt}\n")
            counts = asdict(replace(grown, receipt=None))
            morph = grown.receipt and grown.receipt.plan.morph
            self.record.write(event="growth", **counts | {"receipt": morph})
        if round.growths:
            self._snapshot(f"growth-{len(training.history)}.safetensors", training)

    def _snapshot(self, name: str, training: Training) -> None:
        if not self.arm.snapshots:
            return
        try:
            save(training.grower(), self.record.path(name))
        except (BadCheckpoint, SafetensorError) as error:
            raise BadFolder(
                f"The snapshot '{self.record.path(name)}' cannot be written ({error}). What was "
                f"saved before is whole: see to the disk, then go on with --resume."
            ) from error

    def _save(self, training: Training) -> None:
        state = {"training": training.state_dict(), "lines": self.record.length()}
        self.record.torch(CHECKPOINT, state)

    def _close(self, training: Training) -> Result:
        self._snapshot("final.safetensors", training)
        test: dict[str, object] = {TESTED: None}
        if self.arm.tests:
            found = score(training.forward, self.task, self.task.test)
            test = {TESTED: found.accuracy, TEST_LOSS: found.loss}
        last = [line for line in self.record.lines() if line["event"] == "epoch"][-1]
        del last["event"]
        self.record.json(RESULT, last | test)
        return finished(self.place)


def budget_flops(budget: Budget, task: Task, recipe: Recipe) -> int:
    """The FLOPs of a budget on these images with a recipe's batches."""
    batch = task.train[: min(recipe.batch, len(task.train))]
    with seeded(recipe.seed):
        network = budget.network(task)
    step = step_flops(network, task.prepared(batch.inputs), batch.labels)
    return round(budget.epochs * recipe.epoch(len(task.train)) * step)


def begin(record: Record, config: Json, machine: Machine) -> None:
    """Write what a run is asked; or see that it is what was asked before. Raises BadFolder."""
    before = read_json(record.path(CONFIG))
    if before is None:
        record.json("signature.json", signature(device=machine.device))
        record.json(CONFIG, config)
    else:
        refuse_others(record.folder, before, config)


def refuse_others(place: Path, before: Json, config: Json) -> None:
    """Raise BadFolder if a folder holds a run of other settings."""
    if other := list(_differences(before, plain(config))):
        raise BadFolder(
            f"The folder '{place}' holds a run of other settings ({', '.join(other)}). "
            f"Choose another with --out, or remove it."
        )


def _differences(before: object, asked: object, name: str = "") -> Iterator[str]:
    if isinstance(before, Mapping) and isinstance(asked, Mapping):
        for key in sorted(before.keys() | asked.keys()):
            yield from _differences(before.get(key), asked.get(key), f"{name}.{key}".lstrip("."))
    elif before != asked:
        yield name


def _loaded(path: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # whatever a damaged or foreign file makes of the reader
        reason = str(error).partition("\n")[0]
        raise LabError(
            f"The checkpoint '{path}' cannot be read ({reason}). Remove the folder, and the run "
            f"begins anew."
        ) from None
    return state


@contextmanager
def _understood(path: Path) -> Iterator[None]:
    """Say of a checkpoint that can be read but does not fit that it does not."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (GrowthError, LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise LabError(
            f"The checkpoint '{path}' does not fit the network and the recipe of this run "
            f"({type(error).__name__}: {error}). Remove the folder, and the run begins anew."
        ) from error


def _described(network: Callable[[Task], nn.Module] | None) -> str | None:
    if isinstance(network, functools.partial):
        return _lasting(f"{_described(network.func)}{network.args}{network.keywords}")
    return getattr(network, "__qualname__", None) or (_lasting(repr(network)) if network else None)


def _lasting(text: str) -> str:
    """A repr without addresses in memory, which another process does not repeat."""
    return re.sub(r" at 0x[0-9a-f]+", "", text)
