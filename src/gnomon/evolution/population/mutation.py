"""A mutation: one step of growth, as data; what a space must offer."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from torch import nn

from gnomon.errors import BadCheckpoint
from gnomon.evolution.population.member import Member
from gnomon.recording.tape import Call

S = TypeVar("S")
Json = Mapping[str, Any]


class Mutation(ABC, Generic[S]):
    """How a child differs from its parent: a frozen dataclass of numbers and strings.

    A new kind is a subclass, listed among its space's `mutations`; nothing else has to know it.

    odds: of this kind against the space's others.
    """

    odds: ClassVar[float] = 1.0

    @classmethod
    @abstractmethod
    def choices(cls, space: S, parent: Member) -> Sequence[tuple[Mutation[S], float]]:
        """All mutations of this kind that a member can undergo, each with a weight."""

    @abstractmethod
    def grow(self, space: S, network: nn.Module, seed: int) -> nn.Module:
        """The network with this mutation; what it computes must stay the same in every mode.

        network: a copy of the parent's that holds its parameters by reference, and nobody else has:
            put modules into it, or return another that holds all of its parameters. Their values
            must not change.
        """

    def to_json(self) -> dict[str, Any]:
        """The kind and its fields."""
        assert dataclasses.is_dataclass(self)
        return {"kind": type(self).__name__, **dataclasses.asdict(self)}


class Space(Protocol):
    """Which networks there are: a base and the mutations that lead away from it."""

    @property
    def mutations(self) -> Sequence[type[Mutation[Any]]]:
        """The kinds of mutations."""

    @property
    def signature(self) -> str:
        """Equal for equal spaces: a checkpoint of another one is refused."""

    @property
    def calls(self) -> list[Call]:
        """Example inputs, on which every mutation is proved and FLOPs are counted."""

    def base(self) -> nn.Module:
        """A new base network; constructors may draw from the global generator, which is seeded."""

    def head(self, base: nn.Module) -> str:
        """The path of the classifier: each member has one of its own; "" if there is none."""


def mutation_of(data: Json, space: Space) -> Mutation[Any]:
    """The mutation that `to_json` wrote. Raises BadCheckpoint."""
    kinds = {kind.__name__: kind for kind in space.mutations}
    fields = dict(data)
    kind = kinds.get(str(fields.pop("kind", None)))
    if kind is None:
        raise BadCheckpoint(f"the space has no mutation {data.get('kind')!r}, only {sorted(kinds)}")
    try:
        return kind(**fields)
    except (TypeError, ValueError) as fault:
        raise BadCheckpoint(f"{kind.__name__} cannot be read from {data}: {fault}") from None
