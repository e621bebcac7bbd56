"""One run of a contest between its lock and its result."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gnomon.lab.data.tasks import Task
from gnomon.lab.errors import LabError
from gnomon.lab.running.lock import alone
from gnomon.lab.running.record import Record, numbers
from gnomon.lab.running.runs import RESULT, TESTED, Result, Tell, begin, finished
from gnomon.lab.training.starts import seeded
from gnomon.lab.training.train import Measured, Round

if TYPE_CHECKING:
    from gnomon.lab.contest.bench import ContestBench

KNOWN = "found.json"


@dataclass(frozen=True)
class Known:
    """What others need to know of a finished search.

    flops:   that it took, as searches count them (three forward passes a step), to be a budget of
             another one; full: as trainings count them.
    largest: the mutations that lead from the base to the member of the last round with the most
             parameters, each as JSON.
    """

    flops: int
    full: int
    largest: tuple[str, ...]
    ended: str

    @classmethod
    def of(cls, place: Path) -> Known:
        """Of the search in a folder. Raises LabError if it is not complete."""
        finished(place)
        try:
            content = json.loads((place / KNOWN).read_text(encoding="utf-8"))
            return cls(**content | {"largest": tuple(content["largest"])})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise LabError(
                f"'{place / KNOWN}' cannot be read ({error}). Remove the folder, and the search "
                f"begins anew."
            ) from None


@dataclass(frozen=True)
class Turn:
    """An arm of a contest with one seed, on the images of that seed."""

    bench: ContestBench
    arm: str
    seed: int
    task: Task
    tell: Tell

    @property
    def place(self) -> Path:
        """The folder of this run."""
        return self.bench.place(self.arm, self.seed)

    @property
    def over(self) -> bool:
        """Whether it is complete."""
        return (self.place / RESULT).exists()

    @contextmanager
    def opened(self) -> Iterator[Record]:
        """Take the folder for this run alone. Raises BadFolder."""
        with alone(self.place, "run"), seeded(self.seed):
            record = Record.opened(self.place)
            begin(record, self.bench.config(self.arm, self.seed), self.bench.machine)
            yield record

    def write(self, record: Record, point: Measured) -> None:
        """Write one measurement down; it is on the disk when this returns."""
        record.write(event="epoch", **asdict(point))
        record.length()

    def told(self, point: Measured) -> None:
        """Tell who watches."""
        self.tell(Round(point))

    def close(self, record: Record, test: float) -> Result:
        """Write the result: the last measurement, and the accuracy on the test images."""
        record.json(RESULT, asdict(measured(record)[-1]) | {TESTED: test})
        return finished(self.place)


def measured(record: Record) -> list[Measured]:
    """What a run has measured so far."""
    return [Measured(**numbers(line)) for line in record.lines() if line["event"] == "epoch"]
