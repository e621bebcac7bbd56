"""Who grew from whom: every member there ever was, as data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from gnomon.errors import BadCheckpoint
from gnomon.evolution.population.member import Member, Size


@dataclass(frozen=True)
class Step:
    """A birth on the way from a base to a network: enough to make the same structure again.

    seed: of the search it was born in; id: the one it had there.
    mutation: as `Mutation.to_json` wrote it; None for the base.
    """

    seed: int
    id: int
    mutation: Mapping[str, Any] | None


@dataclass(frozen=True)
class Origin:
    """Where a member lived before it came as an immigrant.

    island: which one, from 1; id: which member it was there; way: how its network was made.
    """

    island: int
    id: int
    way: tuple[Step, ...]


@dataclass(frozen=True)
class Birth:
    """One member, whether it still lives or not.

    mutation: as `Mutation.to_json` wrote it; None for the base and for immigrants.
    scores: by the round that was told. origin: of an immigrant; born is when it came.
    """

    id: int
    parent: int | None
    born: int
    mutation: Mapping[str, Any] | None
    size: Size
    scores: Mapping[int, float] = field(default_factory=dict)
    origin: Origin | None = None

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
        self._births[member.id] = Birth(
            member.id, member.parent, member.born, mutation, member.size, origin=member.origin
        )

    def score(self, id: int, round: int, score: float) -> None:
        """Write down what a member has reached."""
        old = self._births[id]
        self._births[id] = replace(old, scores={**old.scores, round: score})

    def path(self, id: int) -> list[Birth]:
        """From the base, or an immigrant, to a member, both included."""
        found = [self._births[id]]
        while (parent := found[0].parent) is not None:
            found.insert(0, self._births[parent])
        return found

    def way(self, id: int, seed: int) -> tuple[Step, ...]:
        """How a member's network is made, from a base on, through other islands if it did.

        seed: of this search.
        """
        root, *rest = self.path(id)
        begun = (Step(seed, root.id, None),) if root.origin is None else root.origin.way
        return (*begun, *(Step(seed, birth.id, birth.mutation) for birth in rest))

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
                _origin(d.get("origin")),
            )
            for d in data
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as fault:
        raise BadCheckpoint(f"a lineage cannot be read: {fault}") from None
    seen = set[int]()
    for birth in births:
        rootless = birth.parent is None and birth.origin is None and birth.id
        orphan = (birth.parent is None) != (birth.mutation is None)
        if rootless or orphan or birth.parent not in {None, *seen}:
            raise BadCheckpoint(f"a lineage cannot be read: member {birth.id} has no parent in it")
        seen.add(birth.id)
    return Lineage(births)


def _origin(data: Mapping[str, Any] | None) -> Origin | None:
    if data is None:
        return None
    way = tuple(Step(int(s["seed"]), int(s["id"]), s["mutation"]) for s in data["way"])
    if not way or way[0].mutation is not None or any(s.mutation is None for s in way[1:]):
        raise ValueError("an immigrant's way does not lead from a base")
    return Origin(int(data["island"]), int(data["id"]), way)
