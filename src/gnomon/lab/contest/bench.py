"""The runs of a contest: one arm, one seed, one folder, whatever kind of arm it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch

from gnomon.lab.contest import alone, joining, searching
from gnomon.lab.contest.contest import Alone, Entry, Search
from gnomon.lab.contest.turn import Turn
from gnomon.lab.data.sources import Data
from gnomon.lab.data.tasks import Task
from gnomon.lab.running.record import Json, read_json
from gnomon.lab.running.runs import CONFIG, Result, Tell, finished, place_of, refuse_others
from gnomon.lab.training.machine import Machine


@dataclass(frozen=True)
class ContestBench:
    """What the runs of one contest share, as `Bench` for experiments."""

    arms: Mapping[str, Entry]
    data: Data
    folder: Path
    machine: Machine = field(default_factory=Machine)

    def place(self, arm: str, seed: int) -> Path:
        """The folder of one run."""
        return place_of(self.folder, arm, seed)

    def config(self, arm: str, seed: int) -> Json:
        """What decides about a run, as text and numbers."""
        entry = self.arms[arm]
        return {
            "arm": arm,
            "seed": seed,
            "data": asdict(self.data),
            "kind": type(entry).__name__,
            **{f.name: getattr(entry, f.name) for f in fields(entry)},
            "start": entry.start and self.config(entry.start.arm, seed),
            "precision": self.machine.precision,
            "threads": torch.get_num_threads(),
        }

    def run(self, arm: str, seed: int, task: Task, *, tell: Tell = lambda _: None) -> Result:
        """Run an arm to its end, from where it was stopped. A finished run is read back.

        Raises LabError where the search it answers to is not finished, where the folder holds a
        run of other settings, is in use, or cannot be written to; and what a search raises.
        """
        entry, start = self.arms[arm], self.arms[arm].start
        turn = Turn(self, arm, seed, task, tell)
        if start is not None:
            place = self.place(start.arm, seed)
            finished(place)
            refuse_others(place, read_json(place / CONFIG) or {}, self.config(start.arm, seed))
        if isinstance(entry, Alone):
            return alone.trained(turn, entry)
        with turn.opened() as record:
            if turn.over:
                return finished(turn.place)
            if isinstance(entry, Search):
                return searching.searched(turn, entry, record)
            return joining.joined(turn, entry, record)
