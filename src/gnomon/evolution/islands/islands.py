"""Islands: populations that search side by side, and now and then exchange their best."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

from gnomon.errors import BadCheckpoint
from gnomon.evolution import saving
from gnomon.evolution.budget import Spent
from gnomon.evolution.errors import SearchError
from gnomon.evolution.evolution import Evolution
from gnomon.evolution.islands.moving import arrive, leave
from gnomon.evolution.islands.several import joined, parts_of
from gnomon.evolution.population.member import Member
from gnomon.evolution.select import pooled

logger = logging.getLogger("gnomon")


@dataclass(frozen=True)
class Move:
    """A member that is to be copied to the next island, and whose place it takes there.

    source, target: numbers of islands, from 0.
    """

    source: int
    member: Member
    target: int
    place: Member


class Islands:
    """Several searches of one kind with seeds of their own, which exchange their best in a ring.

        1 ──best──> 2 ──best──> 3        after rounds `every`, 2 `every`, ...; who comes takes
        └────────────<──best────┘        the place of the worst one and is selected like any other

    An immigrant is a copy: parameters, statistics and optimizer state are its own, and it computes
    what the member that it was copied from did. Nothing is shared between islands.

    evolutions: two or more, alike but for their seeds.
    every:      rounds between two exchanges.
    immigrants: how many each island gets in an exchange.

    Raises ValueError for numbers that make no sense, SearchError for searches that differ.
    Source: the migration of island models, Whitley, Rana and Heckendorn 1999.
    """

    def __init__(
        self, evolutions: Sequence[Evolution], *, every: int = 5, immigrants: int = 1
    ) -> None:
        self.islands = tuple(evolutions)
        self.every, self.immigrants = every, immigrants
        self._moved = 0  # the round before which members moved last
        if len(self.islands) < 2:
            raise ValueError(
                f"islands={len(self.islands)}: two or more are needed to exchange members; one "
                f"population is an Evolution"
            )
        for name, value in (("every", every), ("immigrants", immigrants)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of 1 or more, not {value!r}")
        size = min(island.settings.size for island in self.islands)
        if immigrants >= size:
            raise ValueError(
                f"immigrants={immigrants} cannot come to a population of size={size}: at least one "
                f"of its own must stay"
            )
        self._check_alike()

    def _check_alike(self) -> None:
        seeds = [island.seed for island in self.islands]
        if len(set(seeds)) < len(seeds):
            raise SearchError(f"islands must have seeds of their own, not {seeds}: they are one")
        first, *others = (saving.identity(island) for island in self.islands)
        for number, other in enumerate(others, 2):
            differing = [name for name in first if name != "seed" and first[name] != other[name]]
            if differing:
                raise SearchError(f"island {number} differs from the first in {differing}")

    @property
    def round(self) -> int:
        """How many rounds every island has told that still goes on."""
        going = [island.round for island in self.islands if not island.done]
        return min(going) if going else max(island.round for island in self.islands)

    @property
    def waiting(self) -> tuple[Evolution, ...]:
        """Those whose round is next: an error may have left some behind the others."""
        return tuple(i for i in self.islands if not i.done and i.round == self.round)

    @property
    def done(self) -> bool:
        """Whether no island has anything left to do."""
        return all(island.done for island in self.islands)

    @property
    def ended(self) -> str:
        """Why the search stops, in words; "" while it goes on."""
        return "; ".join(dict.fromkeys(i.ended for i in self.islands)) if self.done else ""

    @property
    def members(self) -> tuple[Member, ...]:
        """Those of all islands, island after island."""
        return tuple(member for island in self.islands for member in island.members)

    @property
    def best(self) -> Member:
        """The most accurate member of all; of equals that of the earlier island."""
        return max((island.best for island in self.islands), key=lambda m: m.score)

    @property
    def spent(self) -> Spent:
        """What all islands have taken."""
        return reduce(add, (island.spent for island in self.islands))

    @property
    def memory(self) -> int:
        """Bytes that all populations take while they train, activations aside."""
        return sum(island.memory for island in self.islands)

    def name(self, member: Member) -> str:
        """`2.14` for member 14 of the second island."""
        return f"{self.number(member)}.{member.id}"

    def number(self, member: Member) -> int:
        """The island that a member lives on, from 1."""
        return next(i for i, island in enumerate(self.islands, 1) if member in island.members)

    def selected(self, keep: int | None = None) -> tuple[Member, ...]:
        """The members that the selection picks of all islands together, in its order."""
        first, results = self.islands[0], [island.results() for island in self.islands]
        keep = first.settings.keep if keep is None else keep
        return tuple(self.members[row] for row in first.pick(pooled(results), keep))

    def going_on(self, island: Evolution) -> tuple[Member, ...]:
        """Members of one island that will be selected when those who are due have come."""
        number = self.islands.index(island)
        moves = [m for m in self.moves() if m.target == number]
        homes = [self.islands[m.source] for m in moves]
        gone = [m.place for m in moves]
        stay = [row for row, m in enumerate(island.members) if m not in gone]
        everyone = [island.members[row] for row in stay] + [m.member for m in moves]
        come = [
            h.results().of([h.members.index(m.member)]) for h, m in zip(homes, moves, strict=True)
        ]
        results = pooled([island.results().of(stay), *come])
        rows = island.pick(results, island.settings.keep)
        return tuple(everyone[row] for row in rows if row < len(stay))

    def moves(self) -> list[Move]:
        """The exchange that is due before the next round; none if none is."""
        due = self.round > 1 and not (self.round - 1) % self.every
        if self.done or not due or self._moved == self.round:
            return []
        found = []
        for source, island in enumerate(self.islands):
            target = (source + 1) % len(self.islands)
            if self.islands[target].done:
                continue
            best = sorted(island.members, key=_rank)[: self.immigrants]
            worst = sorted(self.islands[target].members, key=_rank)[::-1]
            places = worst[: min(self.immigrants, len(worst) - 1)]
            found += [Move(source, m, target, p) for m, p in zip(best, places, strict=False)]
        return found

    def begin(self) -> None:
        """Let those who are due move, before the next round is asked for.

        Not after a round: so what is saved is before the exchange, and a search that goes on, or
        goes on for longer than was asked, makes the same one.
        """
        if any(island.is_open for island in self.islands):
            return  # a round is under way; they have moved before it
        moves = self.moves()
        travellers = [
            leave(self.islands[m.source], m.member, island=m.source + 1) for m in moves
        ]  # all of them before any arrives: nobody goes on in the same exchange
        for move, traveller in zip(moves, travellers, strict=True):
            refusal = arrive(self.islands[move.target], traveller, move.place)
            if refusal:
                logger.info("no room on island %d: %s", move.target + 1, refusal)
        if moves:
            self._moved = self.round

    def state_dict(self) -> dict[str, Any]:
        """As `Evolution.state_dict`, of all islands. Raises SearchError in mid-round."""
        states = [island.state_dict() for island in self.islands]
        return joined(states, self._numbers, self._moved)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As `Evolution.load_state_dict`. All or nothing. Raises BadCheckpoint."""
        states, moved = parts_of(state, self._numbers)
        before = [saving.state_of(island) for island in self.islands]
        try:
            for island, one in zip(self.islands, states, strict=True):
                island.load_state_dict(one)
        except BadCheckpoint:
            for island, one in zip(self.islands, before, strict=True):
                saving.restore(island, one)
            raise
        self._moved = moved

    @property
    def _numbers(self) -> dict[str, int]:
        """What a checkpoint must have in common with these islands, beside their searches."""
        count = len(self.islands)
        return {"islands": count, "every": self.every, "immigrants": self.immigrants}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `state_dict` to a safetensors file, under a temporary name first."""
        saving.write(self.state_dict(), Path(path))

    def load(self, path: str | os.PathLike[str]) -> None:
        """Read what `save` wrote and go on from there. Raises BadCheckpoint."""
        self.load_state_dict(saving.read(Path(path)))


def _rank(member: Member) -> tuple[bool, float, int]:
    """The best one first, of equals the older one; one without a score last."""
    return member.score != member.score, -member.score, member.id
