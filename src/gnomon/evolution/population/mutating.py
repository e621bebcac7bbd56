"""Algorithm 3: fill the population with children of random members, new ones included."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from gnomon.errors import GrowthError
from gnomon.evolution.chance import Chance
from gnomon.evolution.errors import NoMutation
from gnomon.evolution.population.member import Member
from gnomon.evolution.population.mutation import Mutation, Space

logger = logging.getLogger("gnomon")

# (all, parent, child) -> why not, or ""; may raise GrowthError
Forbids = Callable[[Sequence[Member], Member, Member], str]


class Make(Protocol):
    """Makes the child of a mutation; may raise GrowthError."""

    def __call__(self, parent: Member, mutation: Mutation[Any], /, number: int) -> Member:
        """number: the child's id."""


@dataclass
class _Menu:
    """What a member can still try: its mutations by kind, without those found to be forbidden."""

    kinds: list[list[tuple[Mutation[Any], float]]]
    odds: list[float]
    refusals: list[str] = field(default_factory=list)

    def draw(self, chance: Chance) -> tuple[int, int] | None:
        """A kind by its odds, then one of its mutations by their weights; None if none is left."""
        odds = [o if kind else 0.0 for o, kind in zip(self.odds, self.kinds, strict=True)]
        if not any(odds):
            return None
        kind = chance.weighted(odds)
        return kind, chance.weighted([weight for _, weight in self.kinds[kind]])

    def strike(self, kind: int, place: int, why: str) -> None:
        """Never draw this one again."""
        mutation, _ = self.kinds[kind].pop(place)
        self.refusals.append(f"{mutation}: {why}")
        logger.debug("not proposed: %s: %s", mutation, why)


def menu_of(space: Space, member: Member) -> _Menu:
    """All that a member can try; a weight of 0 is not on offer."""
    kinds = [[(m, w) for m, w in kind.choices(space, member) if w > 0] for kind in space.mutations]
    return _Menu(kinds, [kind.odds for kind in space.mutations])


def mutate(
    space: Space,
    members: Sequence[Member],
    *,
    size: int,
    first: int,
    chance: Chance,
    make: Make,
    forbids: Forbids,
) -> tuple[Member, ...]:
    """Children of members drawn uniformly, until there are `size`, or no more can be made.

    first: the id of the first child.
    A mutation that fails or is forbidden is struck out, and another one of the same member drawn.
    """
    grown, menus = list(members), dict[int, _Menu]()
    fertile = list(members)
    while len(grown) < size and fertile:
        place = chance.below(len(fertile))
        parent = fertile[place]
        if parent.id not in menus:
            menus[parent.id] = menu_of(space, parent)
        made = partial(make, number=first + len(grown) - len(members))
        child = _child(grown, parent, menus[parent.id], chance, made, forbids)
        if child is None:
            del fertile[place]
        else:
            grown.append(child)
            fertile.append(child)
    if len(grown) < size:
        logger.info("only %d of %d members: no other mutation is allowed", len(grown), size)
    return tuple(grown)


def check_fertile(space: Space, base: Member, *, make: Make, forbids: Forbids) -> None:
    """Raise NoMutation if the base has no child at all."""
    menu = menu_of(space, base)
    made = partial(make, number=1)
    if _child([base], base, menu, Chance("try"), made, forbids) is None:
        shown = "; ".join(menu.refusals[:3]) or "the space offers none"
        raise NoMutation(
            f"the search cannot begin: all {len(menu.refusals)} mutations of the base network are "
            f"ruled out ({shown}). Lower tau, raise the budget, or widen the space"
        )


def _child(
    members: Sequence[Member],
    parent: Member,
    menu: _Menu,
    chance: Chance,
    make: Callable[[Member, Mutation[Any]], Member],
    forbids: Forbids,
) -> Member | None:
    while (drawn := menu.draw(chance)) is not None:
        kind, place = drawn
        try:
            child = make(parent, menu.kinds[kind][place][0])
            problem = forbids(members, parent, child)
        except GrowthError as refusal:
            problem = f"{type(refusal).__name__}: {refusal}"
        if not problem:
            return child
        menu.strike(kind, place, problem)
    return None
