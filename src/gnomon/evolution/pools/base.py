"""Where a search runs: what a pool must offer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import torch

from gnomon.evolution.evolution import Evolution
from gnomon.evolution.joint.problem import Problem
from gnomon.evolution.rounds import Round

R = TypeVar("R")
Search = tuple[Evolution, Problem]


class Pool(Protocol):
    """Processes for a search. Enter it (`with`) to begin; what it computes depends on it no more
    than on the machine.

    first: whether this process is the one that writes files and shows what happens.
    """

    @property
    def first(self) -> bool:
        """Whether it is."""

    def rounds(self, searches: Sequence[Search]) -> list[Round]:
        """Play one round of each. Raises Diverged, PoolError; a search that failed is as before."""

    def map(self, task: Callable[..., R], calls: Sequence[tuple[Any, ...]]) -> list[R]:
        """`task(*call)` for each call, in order. Tasks must be pure: one may be done twice."""

    def agreed(self, make: Callable[[], R]) -> R:
        """What `make` gives in the first process, in all of them."""

    def device(self, device: torch.device) -> torch.device:
        """The device of this kind that is this process's own."""

    def __enter__(self) -> Self:
        """Begin. Raises PoolError if it cannot be used."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let go of everything that was begun."""
