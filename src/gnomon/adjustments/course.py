"""What one optimizer has been told by its growths, as values that are replaced, never changed.

So whatever goes wrong on the way to a new course, the old one is still there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from gnomon.adjustments.comparison import Comparison


@dataclass(frozen=True)
class Climb:
    """A factor that rises linearly to 1: the i-th step has start + (1 - start) i/steps.

    done: steps that have been made of it.
    """

    steps: int
    start: float = 0.0
    done: int = 0

    @property
    def ended(self) -> bool:
        """Whether the factor is 1 from now on."""
        return self.done >= self.steps

    @property
    def factor(self) -> float:
        """What the coming step is multiplied by."""
        return 1.0 if self.ended else self.start + (1 - self.start) * self.done / self.steps

    def stepped(self) -> Climb:
        """One step later."""
        return self if self.ended else replace(self, done=self.done + 1)


@dataclass(frozen=True, eq=False)
class Young:
    """The new entries of one growth, with a rate and a weight decay of their own.

    entries: bool of each parameter's shape; None for a whole parameter.
    """

    rate: float
    decay: float
    climb: Climb
    entries: Mapping[Tensor, Tensor | None]

    @property
    def factor(self) -> float:
        """What the coming step of these entries is multiplied by."""
        return self.rate * self.climb.factor

    @property
    def ended(self) -> bool:
        """Whether these entries move like all others from now on."""
        plain = self.climb.ended and self.rate == 1 and self.decay == 1
        return plain or not self.entries


@dataclass(frozen=True, eq=False)
class Apart:
    """Parameters that the optimizer's steps see in a group of their own.

    options: what differs from the group that holds them. rate: their learning rate relative to
    that group's.
    """

    params: tuple[Tensor, ...]
    options: Mapping[str, Any]
    rate: float = 1.0


@dataclass(frozen=True, eq=False)
class Course:
    """How one optimizer goes on: a factor on its rate, and what concerns new weights alone."""

    factor: float = 1.0
    climb: Climb | None = None
    young: tuple[Young, ...] = ()
    apart: tuple[Apart, ...] = ()
    comparison: Comparison | None = None

    @property
    def idle(self) -> bool:
        """Whether steps go on as if there were no course at all."""
        others = self.climb or self.young or self.apart or self.comparison
        return self.factor == 1 and not others

    @property
    def rate(self) -> float:
        """What the learning rate of the coming step is multiplied by."""
        return self.factor * (self.climb.factor if self.climb else 1.0)

    def stepped(self, size: Tensor | None) -> Course:
        """After a step whose gradient had this size (if anyone asked for it)."""
        climb = self.climb.stepped() if self.climb else None
        young = tuple(replace(y, climb=y.climb.stepped()) for y in self.young)
        now = replace(
            self,
            climb=None if climb is None or climb.ended else climb,
            young=tuple(y for y in young if not y.ended),
        )
        if self.comparison is None or size is None:
            return now
        comparison, factor = self.comparison.seen(size)
        return replace(now, comparison=comparison, factor=self.factor * factor)

    def parameters(self) -> Iterator[Tensor]:
        """All that are named in it."""
        for young in self.young:
            yield from young.entries
        for apart in self.apart:
            yield from apart.params
