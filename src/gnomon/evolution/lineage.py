"""Who grew from whom: every member there ever was, as data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from gnomon.errors import BadCheckpoint
from gnomon.evolution.member import Member, Size


@dataclass(frozen=True)
class Birth:
    """One member, whether it still lives or not.

    mutation: as `Mutation.to_json` wrote it; None for the base. scores: by the round that was told.
    """

    id: int
    parent: int | None
    born: int
    mutation: Mapping[str, Any] | None
    size: Size
    scores: Mapping[int, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


class Lineage:
    """All births in order, by id."""

    def __init__(self, births: Sequence[Birth] = ()) -> None:
        self._births = {birth.id: birth for birth in births}

    def __iter__(self) -> Iterator[Birth]:
        return iter(self._births.values())

    def __len__(self) -> int:
        return len(self._births)

    def __getitem__(self, id: int) -> Birth:
        return self._births[id]

    def add(self, member: Member) -> None:
        """Write a birth down."""
        mutation = None if member.mutation is None else member.mutation.to_json()
        birth = Birth(member.id, member.parent, member.born, mutation, member.size)
        self._births[member.id] = birth

    def score(self, id: int, round: int, score: float) -> None:
        """Write down what a member has reached."""
        old = self._births[id]
        scores = {**old.scores, round: score}
        self._births[id] = Birth(old.id, old.parent, old.born, old.mutation, old.size, scores)

    def path(self, id: int) -> list[Birth]:
        """From the base to a member, both included."""
        found = [self._births[id]]
        while (parent := found[0].parent) is not None:
            found.insert(0, self._births[parent])
        return found

    def to_json(self) -> list[dict[str, Any]]:
        """Plain data, older ones first."""
        return [birth.to_json() for birth in self]


def lineage_of(data: Sequence[Mapping[str, Any]]) -> Lineage:
    """What `Lineage.to_json` wrote. Raises BadCheckpoint."""
    try:
        births = [
            Birth(
                int(d["id"]),
                None if d["parent"] is None else int(d["parent"]),
                int(d["born"]),
                d["mutation"],
                Size(**d["size"]),
                {int(r): float(s) for r, s in d["scores"].items()},
            )
            for d in data
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as fault:
        raise BadCheckpoint(f"a lineage cannot be read: {fault}") from None
    seen = set[int]()
    for birth in births:
        if (birth.parent is None) != (birth.mutation is None) or birth.parent not in {None, *seen}:
            raise BadCheckpoint(f"a lineage cannot be read: member {birth.id} has no parent in it")
        seen.add(birth.id)
    return Lineage(births)
