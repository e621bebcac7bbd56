"""The search: ask for the members of a round, tell how right they are; save, and go on later."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gnomon.evolution import saving
from gnomon.evolution.answers import table_of
from gnomon.evolution.blueprint import Blueprint
from gnomon.evolution.budget import Budget, Spent, memory_of
from gnomon.evolution.chance import Chance
from gnomon.evolution.errors import SearchError
from gnomon.evolution.population.birth import child, first, prove
from gnomon.evolution.population.lineage import Lineage
from gnomon.evolution.population.member import Member
from gnomon.evolution.population.mutating import check_fertile, mutate
from gnomon.evolution.population.mutation import Mutation, Space
from gnomon.evolution.population.optimizer import Maker, SharedOptimizer
from gnomon.evolution.select import Best, Results, Selection
from gnomon.evolution.settings import Settings

logger = logging.getLogger("gnomon")


class Evolution:
    """A population of networks that share their parameters, and who is in it.

        evolution = Evolution(Stages(), partial(torch.optim.Adam, lr=3e-3))
        while not evolution.done:
            members = evolution.ask()                   # the base; later K selected and children
            ...                                         # train and evaluate them, anywhere
            evolution.tell({m.id: right(m) for m in members})

    `search` does that with a `Problem`. The same arguments and answers give the same population.

    optimizer: makes the one optimizer of all members (see `SharedOptimizer`).
    device:    where the networks are.

    Raises OverBudget or NoMutation if there is nothing to search.
    Source: Painter, Deep Neuroevolution, algorithm 1.
    """

    def __init__(
        self,
        space: Space,
        optimizer: Maker,
        *,
        select: Selection | None = None,
        settings: Settings | None = None,
        budget: Budget | None = None,
        seed: int = 0,
        device: torch.device | str | None = None,
    ) -> None:
        self.blueprint = own = Blueprint(
            space,
            optimizer,
            select or Best(),
            settings or Settings(),
            budget or Budget(),
            seed,
            None if device is None else torch.device(device),
        )
        self.space, self.seed, self.device = space, seed, own.device
        self.selection, self.settings, self.budget = own.select, own.settings, own.budget
        self.optimizer = SharedOptimizer(optimizer)
        self.round = 0  # how many were told
        self.spent = Spent()
        self.correct: Tensor | None = None  # (members, examples), as told last
        self.lineage = Lineage()
        self._open = False
        base = first(space, seed=seed, device=self.device)
        self.members: tuple[Member, ...] = (base,)
        self.budget.check_base(base, self.optimizer.copies)
        check_fertile(space, base, make=self._make, forbids=self._forbids)
        self.lineage.add(base)
        self.optimizer.adopt(base)

    @classmethod
    def made_from(cls, blueprint: Blueprint) -> Evolution:
        """The search at its start."""
        b = blueprint
        return cls(
            b.space, b.optimizer, select=b.select, settings=b.settings, budget=b.budget,
            seed=b.seed, device=b.device,
        )  # fmt: skip

    @property
    def islands(self) -> tuple[Evolution, ...]:
        """All populations of this search: one."""
        return (self,)

    @property
    def waiting(self) -> tuple[Evolution, ...]:
        """Those whose round is next."""
        return () if self.done else (self,)

    def begin(self) -> None:
        """Nothing happens between two rounds; see `Islands.begin`."""

    @property
    def done(self) -> bool:
        """Whether nothing is left to ask for."""
        return not self._open and bool(self.ended)

    @property
    def ended(self) -> str:
        """Why the search stops, in words; "" while it goes on."""
        if self.round > self.settings.rounds:
            return f"all {self.settings.rounds} rounds are done"
        return self.budget.ended(self.spent, self.members) if self.round else ""

    @property
    def steps(self) -> int:
        """Of joint training in the present round."""
        return self.settings.steps if self.round else self.settings.first_steps

    @property
    def key(self) -> tuple[object, ...]:
        """What everything drawn in the present round depends on."""
        return self.seed, "round", self.round

    def ask(self) -> tuple[Member, ...]:
        """The members of the present round; the same ones until they are told.

        Raises SearchError if the search is over.
        """
        if self._open:
            return self.members
        if self.done:
            raise SearchError(f"the search is over: {self.ended}. Give it more, or see selected()")
        if self.round:
            kept = self.selected()
            self.members = mutate(
                self.space,
                kept,
                size=self.settings.size,
                first=len(self.lineage),
                chance=Chance(*self.key, "mutate"),
                make=self._make,
                forbids=self._forbids,
            )
            self.optimizer.release(self.members)
            for member in self.members[len(kept) :]:
                self.optimizer.adopt(member)
                self.lineage.add(member)
            self.correct = None
        self._open = True
        return self.members

    def tell(self, correct: Mapping[int, Tensor], spent: Spent | None = None) -> None:
        """How right each member is on each validation example, by its id; this ends the round.

        correct: (examples,) each, from 0 to 1 or bools. spent: what the round has taken.
        Raises SearchError for answers that do not fit; they can then be told again.
        """
        if not self._open:
            raise SearchError("no round is open: ask() first")
        self.correct = table_of(self.members, correct)
        scores = self.correct.double().mean(1).tolist()
        self.members = tuple(
            replace(m, score=score) for m, score in zip(self.members, scores, strict=True)
        )
        for member in self.members:
            self.lineage.score(member.id, self.round, member.score)
        self.spent += spent or Spent()
        self.round += 1
        self._open = False
        logger.info("round %d: best %s", self.round - 1, self.best)

    @property
    def is_open(self) -> bool:
        """Whether members are asked for, and not told yet."""
        return self._open

    def name(self, member: Member) -> str:
        """The member's number."""
        return str(member.id)

    @property
    def best(self) -> Member:
        """The most accurate member; of equals the older one."""
        return max(self.members, key=lambda m: (m.score == m.score, m.score, -m.id))

    def selected(self, keep: int | None = None) -> tuple[Member, ...]:
        """The members that the selection picks, in its order, of those told last."""
        keep = self.settings.keep if keep is None else keep
        return tuple(self.members[row] for row in self.pick(self.results(), keep))

    def results(self) -> Results:
        """What was told last. Raises SearchError if nothing was."""
        if self.correct is None or self._open:
            raise SearchError("members can be selected only after tell(): they have no scores")
        sizes = [m.size for m in self.members]
        return Results(
            self.correct.double(),
            torch.tensor([s.parameters for s in sizes], device="cpu"),
            torch.tensor([s.flops for s in sizes], device="cpu"),
        )

    def pick(self, results: Results, keep: int) -> list[int]:
        """The rows that the selection picks, with what it draws in this round."""
        return self.selection.select(results, keep, Chance(*self.key, "select"))

    @property
    def memory(self) -> int:
        """Bytes that the population takes while it trains, activations aside."""
        return memory_of(self.members, self.optimizer.copies)

    def state_dict(self) -> dict[str, Any]:
        """Everything the next round depends on, between two rounds: text and tensors.

        "meta": JSON. "tensors": by name, each shared one once. Raises SearchError in mid-round:
        what was trained since belongs to a round that will be done again.
        """
        if self._open:
            raise SearchError("a round cannot be saved before tell(): it will be done again")
        return saving.state_of(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there, on an evolution made with the same arguments.

        More rounds and another budget are fine. All or nothing. Raises BadCheckpoint.
        """
        saving.restore(self, state)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `state_dict` to a safetensors file, under a temporary name first."""
        saving.write(self.state_dict(), Path(path))

    def load(self, path: str | os.PathLike[str]) -> None:
        """Read what `save` wrote and go on from there. Raises BadCheckpoint."""
        self.load_state_dict(saving.read(Path(path)))

    def _make(self, parent: Member, mutation: Mutation[Any], number: int) -> Member:
        return child(self.space, parent, mutation, id=number, born=self.round, seed=self.seed)

    def _forbids(self, members: Sequence[Member], parent: Member, made: Member) -> str:
        ratio = parent.size.parameters / max(1, made.size.parameters)
        if not ratio > self.settings.tau:
            return f"|parent| / |child| = {ratio:.3f} is not above tau = {self.settings.tau:g}"
        problem = self.budget.excess([*members, made], made, self.optimizer.copies)
        if not problem:
            prove(self.space, parent, made)  # last: it takes the longest
        return problem
