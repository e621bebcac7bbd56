"""What a joint training must know of other processes that take each of its steps with it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from gnomon.evolution.joint.problem import Batch
from gnomon.evolution.population.member import Member


class Ranks(Protocol):
    """Processes that draw the same member and the same batch, and work on a part of it each."""

    @property
    def rank(self) -> int:
        """Which of them this is, from 0."""

    def part(self, batch: Batch) -> Batch:
        """What this process computes of a batch."""

    def average(self, member: Member) -> None:
        """Give a member the gradients that the whole batch has, between backward and update."""

    def mean(self, values: Mapping[int, float]) -> dict[int, float]:
        """Each value's mean over the processes."""

    def clock(self) -> float:
        """Seconds since some moment, the same in all processes: they must stop together."""

    def joined(self) -> AbstractContextManager[object]:
        """While steps are taken: norms see the whole batch."""


class Alone:
    """This process, and no other."""

    rank = 0

    def part(self, batch: Batch) -> Batch:
        """All of it."""
        return batch

    def average(self, member: Member) -> None:
        """They are what they are."""

    def mean(self, values: Mapping[int, float]) -> dict[int, float]:
        """The values."""
        return dict(values)

    def clock(self) -> float:
        """Seconds of this machine."""
        return time.perf_counter()

    def joined(self) -> AbstractContextManager[object]:
        """Nothing to do."""
        return nullcontext()
