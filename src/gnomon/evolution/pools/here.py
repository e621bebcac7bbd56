"""The pool that is this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import torch

from gnomon.evolution.pools.base import R, Search
from gnomon.evolution.rounds import Round, play


class Here:
    """One thing after the other, in this process."""

    first = True

    def rounds(self, searches: Sequence[Search]) -> list[Round]:
        """Play one round of each."""
        return [play(evolution, problem) for evolution, problem in searches]

    def map(self, task: Callable[..., R], calls: Sequence[tuple[Any, ...]]) -> list[R]:
        """Call after call."""
        return [task(*call) for call in calls]

    def agreed(self, make: Callable[[], R]) -> R:
        """What it gives."""
        return make()

    def device(self, device: torch.device) -> torch.device:
        """The same."""
        return device

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass
