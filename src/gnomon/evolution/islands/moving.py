"""A member on its way from one island to another: a copy, with all that belongs to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gnomon.evolution.errors import SearchError
from gnomon.evolution.population.birth import immigrant
from gnomon.evolution.population.lineage import Origin
from gnomon.evolution.population.member import Member
from gnomon.evolution.population.sharing import shared_copy

if TYPE_CHECKING:
    from gnomon.evolution.evolution import Evolution


@dataclass(frozen=True, eq=False)
class Traveller:
    """A copy that shares nothing with anybody.

        island 1   base ── a ── b      W, V, head, Adam's state
        island 2   b'                  copies of all of them; what b' does, b did

    member: with a network of its own; its numbers are still those it had at home.
    states: the optimizer's, by the name of the parameter. correct: (examples,) as told at home.
    """

    member: Member
    states: Mapping[str, Mapping[str, Any]]
    correct: Tensor
    origin: Origin


def leave(evolution: Evolution, member: Member, *, island: int) -> Traveller:
    """Copy a member that was told; it stays where it is.

    island: the number of this one. Raises Unsupported if modules cannot be copied.
    """
    assert evolution.correct is not None
    every = [name for name, _ in member.network.named_parameters(remove_duplicate=False)]
    network = shared_copy(member.network, every)
    way = evolution.lineage.way(member.id, evolution.seed)
    row = evolution.correct[evolution.members.index(member)]
    return Traveller(
        replace(member, network=network),
        evolution.optimizer.copy_of(member),
        row.clone(),
        Origin(island, member.id, way),
    )


def arrive(evolution: Evolution, traveller: Traveller, place: Member) -> str:
    """Take a member's place, between two rounds, as the youngest one.

    Returns why the budget has no room for it, "" if it is here.
    Raises SearchError if it was told on other examples.
    """
    correct = evolution.results().correct
    if traveller.correct.shape != correct[0].shape:
        raise SearchError(
            f"a member cannot move: it was told on {len(traveller.correct)} validation examples, "
            f"those here on {correct.shape[1]}. Give all islands the same ones"
        )
    row = evolution.members.index(place)
    others = [m for m in evolution.members if m is not place]
    score, told_in = traveller.member.score, evolution.round - 1
    new = immigrant(
        traveller.member, traveller.origin, id=len(evolution.lineage), born=evolution.round,
        score=score,
    )  # fmt: skip
    refusal = evolution.budget.excess([*others, new], new, evolution.optimizer.copies)
    if not refusal:
        assert evolution.correct is not None
        rows = [r for i, r in enumerate(evolution.correct) if i != row]
        evolution.correct = torch.stack([*rows, traveller.correct.to(rows[0].dtype)])
        evolution.members = (*others, new)
        evolution.optimizer.release(evolution.members)
        evolution.optimizer.give(new, traveller.states)
        evolution.lineage.add(new)
        evolution.lineage.score(new.id, told_in, score)
    return refusal
