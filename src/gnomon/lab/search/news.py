"""What a round has told, as plain data: for the screen, the metrics and the pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from gnomon.evolution import Evolution, Islands, Member, Round, Spent, Trained
from gnomon.evolution.population.member import distinct
from gnomon.lab.errors import LabError
from gnomon.lab.search.spaces import widths


@dataclass(frozen=True)
class Row:
    """A member at the end of a round.

    selected: as which it is picked for the next round, from 1; None if it is not.
    steps:    of the round's joint training; loss: their mean, nan without any.
    widths:   channels by part of the network.
    island:   from 1; 0 if there is but one population. origin: of an immigrant: (island, id there).
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
    island: int = 0
    origin: tuple[int, int] | None = None

    @property
    def key(self) -> tuple[int, int]:
        """Its island and its id there, which no other member has."""
        return self.island, self.id

    @property
    def before(self) -> tuple[int, int] | None:
        """The key of what it grew or was copied from; None for a base."""
        return self.origin if self.parent is None else (self.island, self.parent)

    @property
    def name(self) -> str:
        """`14`, or `2.14` on the second island."""
        return named(self.key)


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
        """The most accurate; of equals that of the earlier island, then the older one."""
        return self.ranked[0]

    @property
    def ranked(self) -> list[Row]:
        """The most accurate ones first."""
        return sorted(self.rows, key=lambda row: (-row.accuracy, row.key))

    @property
    def islands(self) -> list[Told]:
        """Each population apart."""
        numbers = sorted({row.island for row in self.rows})
        return [replace(self, rows=tuple(r for r in self.rows if r.island == n)) for n in numbers]

    @classmethod
    def of(cls, searched: Evolution | Islands, done: Sequence[Round]) -> Told:
        """The round that was told last; done: that of each island which took part."""
        several = isinstance(searched, Islands)
        trained = {id(member): one.trained for one in done for member in one.members}
        rows, held = list[Row](), 0
        for number, island in enumerate(searched.islands, 1):
            chosen = searched.going_on(island) if isinstance(searched, Islands) else None
            picked = {m.id: i for i, m in enumerate(chosen or island.selected(), 1)}
            held += sum(p.numel() for p in distinct(island.members).values())
            for member in island.members:
                row = _row(member, trained.get(id(member), Trained(Spent())), picked)
                rows.append(replace(row, island=number) if several else row)
        rounds = searched.islands[0].settings.rounds
        return cls(done[0].number, rounds, tuple(rows), searched.spent, held, searched.memory)

    def to_json(self) -> dict[str, Any]:
        """A line of the metrics."""
        return {"event": "round", **asdict(self)}

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> Told:
        """What `to_json` gave. Raises LabError."""
        try:
            rest = {k: v for k, v in line.items() if k not in ("event", "rows", "spent")}
            rows = tuple(_read(row) for row in line["rows"])
            return cls(rows=rows, spent=Spent(**line["spent"]), **rest)
        except (KeyError, TypeError) as error:
            raise LabError(f"The metrics of the search cannot be read: {error}.") from None


def named(key: tuple[int, int]) -> str:
    """The island and the member, or the member alone."""
    island, id = key
    return f"{island}.{id}" if island else str(id)


def _read(row: Mapping[str, Any]) -> Row:
    origin = row.get("origin")
    return Row(**{**row, "origin": None if origin is None else (int(origin[0]), int(origin[1]))})


def _row(member: Member, trained: Trained, picked: Mapping[int, int]) -> Row:
    return Row(
        member.id,
        member.parent,
        member.born,
        _how(member),
        member.size.parameters,
        member.size.flops,
        member.score,
        picked.get(member.id),
        trained.steps.get(member.id, 0),
        trained.losses.get(member.id),
        widths(member),
        origin=None if member.origin is None else (member.origin.island, member.origin.id),
    )


def _how(member: Member) -> str:
    if member.origin is not None:
        return f"from {named((member.origin.island, member.origin.id))}"
    return "base" if member.mutation is None else short(str(member.mutation))


def short(mutation: str) -> str:
    """`WidenStage 0, 3` for `WidenStage(stage=0, kernel=3)`: the first two fields."""
    kind, _, fields = mutation.partition("(")
    values = [part.rpartition("=")[2].strip("'") for part in fields.rstrip(")").split(", ")]
    return f"{kind} {', '.join(values[:2])}"
