"""One search, one folder.

    config.json        what was asked; a search that goes on must ask the same
    signature.json     versions, commit and machine
    metrics.jsonl      a line per round, cut back to the checkpoint on resuming
    checkpoint.safetensors   all that the next round depends on
    lineage.json       every member there ever was: parent, mutation, size, scores
    top.safetensors    the trained top of the ensemble, at the end
    result.json        written last: its presence says that the search is complete
    search.md          the page, with its pictures

Every file but the metrics is written under a temporary name and renamed. A lock that the system
takes back when a process dies keeps two searches out of one folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gnomon.lab.errors import BadFolder
from gnomon.lab.running.lock import alone
from gnomon.lab.running.record import METRICS, Record, metrics, read_json, told
from gnomon.lab.search.asked import Asked
from gnomon.lab.search.news import Told

CONFIG, SIGNATURE, RESULT = "config.json", "signature.json", "result.json"
CHECKPOINT, TOP, LINEAGE = "checkpoint.safetensors", "top.safetensors", "lineage.json"


class Folder:
    """Where a search is kept."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def new(cls, path: Path | None, name: str) -> Folder:
        """A folder without a search: this one, or the first of runs/name, name-2, ...

        Raises BadFolder if there is a search in it.
        """
        if path is not None:
            if cls(path).taken:
                raise BadFolder(
                    f"The folder '{path}' holds a run already. Go on with --resume '{path}', or "
                    f"choose another."
                )
            return cls(path)
        number, place = 1, Path("runs") / name
        while cls(place).taken:
            number += 1
            place = Path("runs") / f"{name}-{number}"
        return cls(place)

    @classmethod
    def of_seeds(cls, path: Path) -> list[Folder]:
        """The searches of several seeds that lie in a folder, seed0, seed1, ..., in that order."""
        there = [p for p in path.glob("seed*") if p.name[4:].isdigit() and cls(p).taken]
        return [cls(p) for p in sorted(there, key=lambda p: int(p.name[4:]))]

    def of_seed(self, seed: int) -> Folder:
        """The folder of one of several seeds."""
        return Folder(self.path / f"seed{seed}")

    @property
    def taken(self) -> bool:
        """Whether it holds a search, or a run of another kind."""
        lines = self.path / METRICS
        here = (self.path / CONFIG).exists() or (lines.exists() and lines.stat().st_size > 0)
        return here or bool(Folder.of_seeds(self.path))

    def asked(self) -> Asked:
        """What the search in it was asked. Raises BadFolder if there is none."""
        config = read_json(self.path / CONFIG)
        if config is None or config.get("kind") != "search":
            raise BadFolder(
                f"There is no search in '{self.path}' to go on with. Begin one with --out."
            )
        return Asked.from_json({k: v for k, v in config.items() if k != "kind"})

    @contextmanager
    def alone(self) -> Iterator[Record]:
        """Keep others out while something is written. Raises BadFolder if it is in use."""
        with alone(self.path, "search"):
            yield Record.opened(self.path)

    def cut(self, record: Record, rounds: int) -> None:
        """Drop the metrics of rounds that the checkpoint does not know. Raises BadFolder."""
        length, known = 0, 0
        with told(self.path):
            lines = (self.path / METRICS).read_bytes().splitlines(keepends=True)
        for line in lines[:rounds]:
            length, known = length + len(line), known + line.endswith(b"\n")
        if known < rounds:
            raise BadFolder(
                f"The metrics in '{self.path}' are shorter than the checkpoint beside them: "
                f"{known} of {rounds} rounds. Remove the folder, and begin anew."
            )
        record.cut(length)

    def history(self) -> list[Told]:
        """All rounds so far. Raises LabError."""
        if not (self.path / METRICS).exists():
            return []
        try:
            return [Told.from_json(line) for line in metrics(self.path)]
        except json.JSONDecodeError as error:
            raise BadFolder(f"The metrics in '{self.path}' cannot be read: {error}.") from None

    def result(self) -> dict[str, Any] | None:
        """The end of a search that is complete."""
        return read_json(self.path / RESULT)

    def signature(self) -> dict[str, Any]:
        """Versions, commit and machine, as far as they were written."""
        return read_json(self.path / SIGNATURE) or {}
