"""What a round has told, as plain data: for the screen, the metrics and the pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from gnomon.evolution import Evolution, Member, Round, Spent
from gnomon.evolution.member import distinct
from gnomon.lab.errors import LabError
from gnomon.lab.search.spaces import widths


@dataclass(frozen=True)
class Row:
    """A member at the end of a round.

    selected: as which it was picked for the next round, from 1; None if it was not.
    steps:    of the round's joint training; loss: their mean, nan without any.
    widths:   channels by part of the network.
    """

    id: int
    parent: int | None
    born: int
    mutation: str
    parameters: int
    flops: int
    accuracy: float
    selected: int | None
    steps: int
    loss: float | None
    widths: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Told:
    """A round: its population, and what the search has taken so far.

    rounds: how many are asked for. held: distinct parameters of the population. memory: bytes, as
    `Evolution.memory`.
    """

    round: int
    rounds: int
    rows: tuple[Row, ...]
    spent: Spent
    held: int
    memory: int

    @property
    def best(self) -> Row:
        """The most accurate; of equals the older one."""
        return max(self.rows, key=lambda row: (row.accuracy, -row.id))

    @property
    def ranked(self) -> list[Row]:
        """The most accurate ones first."""
        return sorted(self.rows, key=lambda row: (-row.accuracy, row.id))

    @classmethod
    def of(cls, evolution: Evolution, done: Round) -> Told:
        """The round that was told last."""
        picked = {member.id: i for i, member in enumerate(evolution.selected(), 1)}
        rows = tuple(_row(member, done, picked) for member in evolution.members)
        held = sum(p.numel() for p in distinct(evolution.members).values())
        rounds = evolution.settings.rounds
        return cls(done.number, rounds, rows, evolution.spent, held, evolution.memory)

    def to_json(self) -> dict[str, Any]:
        """A line of the metrics."""
        return {"event": "round", **asdict(self)}

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> Told:
        """What `to_json` gave. Raises LabError."""
        try:
            rest = {k: v for k, v in line.items() if k not in ("event", "rows", "spent")}
            rows = tuple(Row(**row) for row in line["rows"])
            return cls(rows=rows, spent=Spent(**line["spent"]), **rest)
        except (KeyError, TypeError) as error:
            raise LabError(f"The metrics of the search cannot be read: {error}.") from None


def _row(member: Member, done: Round, picked: Mapping[int, int]) -> Row:
    return Row(
        member.id,
        member.parent,
        member.born,
        "base" if member.mutation is None else short(str(member.mutation)),
        member.size.parameters,
        member.size.flops,
        member.score,
        picked.get(member.id),
        done.trained.steps.get(member.id, 0),
        done.trained.losses.get(member.id),
        widths(member),
    )


def short(mutation: str) -> str:
    """`WidenStage 0, 3` for `WidenStage(stage=0, kernel=3)`: the first two fields."""
    kind, _, fields = mutation.partition("(")
    values = [part.rpartition("=")[2].strip("'") for part in fields.rstrip(")").split(", ")]
    return f"{kind} {', '.join(values[:2])}"
