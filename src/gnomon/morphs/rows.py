"""What modules are called while blocks are put in, one after the other.

Numbered children of a container move up when one is put in before them, so the places that a plan
names hold in its order only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from gnomon.editing import insertion
from gnomon.morphs.places import Place
from gnomon.planning.edit import ModuleEdit, key_of


class Seat(NamedTuple):
    """The edit that puts a block in, and the name under which its numbers are drawn."""

    edit: ModuleEdit
    key: str


@dataclass
class _Row:
    """The children of one container as they are called now, and what they were called at first."""

    names: list[str]
    first: list[str | None]

    def put_behind(self, name: str) -> str:
        """Put a new one behind another. Returns its name."""
        at = self.names.index(name) + 1
        self.names, own = insertion.row_with(self.names, name)
        self.first.insert(at, None)
        return own


class Rows:
    """Puts blocks behind places of one model, which were all found before anything was put in."""

    def __init__(self) -> None:
        self._rows: dict[str, _Row] = {}  # by what their container was called at first
        self.edits: list[ModuleEdit] = []

    def put(self, place: Place, block: ModuleEdit, count: int) -> Seat:
        """Put `count` blocks behind a place, one behind the other, all like `block`.

        Returns where the first one sits.
        """
        at = self._now(place.after)
        self.edits.append(replace(block, place=at))
        seat = Seat(self.edits[-1], key_of(self.edits, len(self.edits) - 1))
        if place.how == "hook":
            where, name = f"{at}.{insertion.CHILD}", "0"
            row = _Row([name], [None])
        else:
            container = place.after.rpartition(".")[0]
            where, _, before = at.rpartition(".")
            row = self._rows.setdefault(container, _Row(list(place.siblings), [*place.siblings]))
            name = row.put_behind(before)
        for _ in range(count - 1):
            last = f"{where}.{name}" if where else name
            self.edits.append(replace(block, how="insert", place=last))
            name = row.put_behind(name)
        return seat

    def _now(self, path: str) -> str:
        """What a module is called by now."""
        now: list[str] = []
        container = ""
        for child in path.split("."):
            row = self._rows.get(container)
            now.append(row.names[row.first.index(child)] if row and child in row.first else child)
            container = f"{container}.{child}" if container else child
        return ".".join(now)
