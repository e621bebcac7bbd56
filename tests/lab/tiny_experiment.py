"""Runs without processes, and an experiment's file to run: for tests."""

from concurrent.futures import Executor, Future
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue

from gnomon.lab.running import jobs

HEAD = """
from gnomon import R2R, At, Every, OnPlateau, Widen
from gnomon.lab.data.sources import Images
from gnomon.lab.experiment import Arm, Budget, Computed, Experiment, Size, Start
from gnomon.lab.training.recipe import Recipe
from torch import nn

class Net(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.hidden, self.head = nn.Linear(16, hidden), nn.Linear(hidden, 2)

    def forward(self, x):
        return self.head(self.hidden(x.flatten(1)).relu())

def small(task): return Net(4)
def large(task): return Net(8)
def recipe(size, **changes): return Recipe(**{"epochs": size.epochs, "batch": 16, "lr": 1e-2} | changes)
WIDEN = At(Widen("hidden", by=2), epoch=0)

def arms(size):
    return {
        "teacher": Arm(recipe(size), small, tests=False),
        "scratch": Arm(recipe(size), large),
        "R2R": Arm(recipe(size), start=Start("teacher"), schedule=WIDEN),
        "mid": Arm(recipe(size), start=Start("teacher", carry=True), schedule=WIDEN),
    }

def experiment(arms=arms, **changes):
    return Experiment(**{
        "name": "tiny", "about": "Tiny networks.", "source": "nobody, figure 0", "arms": arms,
        "presets": {"quick": Size(2, (0, 1)), "paper": Size(3, (0, 1))}, "data": Images("brightness"),
        "printed": {"R2R": 0.9, "scratch": 0.95},
    } | changes)
"""  # noqa: E501
DECLARED = "\nEXPERIMENT = experiment()\n"


def experiment_file(
    folder: Path, name: str = "tiny", text: str = DECLARED, head: str = HEAD
) -> Path:
    """Write an experiment: what `text` says behind the tiny one's definitions."""
    path = folder / f"{name}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(head + text)
    return path


class Inline(Executor):
    """Does each job at once, in this process."""

    def submit(self, function, /, *args, **kwargs):
        future = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future


@contextmanager
def inline(count):
    """In the place of `jobs.processes`."""
    jobs._channel = SimpleQueue()
    try:
        yield Inline(), jobs._channel
    finally:
        jobs._channel = None


class Watching:
    """Writes down what it sees."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def started(self, run):
        self.seen.append(f"started {run}")

    def measured(self, news):
        self.seen.append(f"measured {news.run}: {news.point.epoch}")

    def finished(self, run, result):
        self.seen.append(f"finished {run}")

    def failed(self, run, why):
        self.seen.append(f"failed {run}: {why}")

    def skipped(self, run, why):
        self.seen.append(f"skipped {run}: {why}")
