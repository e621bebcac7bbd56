"""What an adjustment is, and what it is told about a growth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from torch.optim import ASGD, Optimizer, Rprop

from gnomon.adjustments.course import Course
from gnomon.errors import Unsupported
from gnomon.planning.edit import TensorEdit
from gnomon.planning.plan import Plan


@dataclass(frozen=True, eq=False)
class Growth:
    """A growth that has just happened.

    parameters: how many numbers the model had before and has after.
    grown: parameters that got larger, each with its edit; new: whole ones that are new.
    """

    plan: Plan
    parameters: tuple[int, int]
    grown: tuple[tuple[nn.Parameter, TensorEdit], ...]
    new: tuple[nn.Parameter, ...]


class Adjustment:
    """What happens to an optimizer at a growth."""

    def check(self, optimizer: Optimizer) -> None:
        """Raise Unsupported for an optimizer that this cannot be done to, whatever grows."""
        return None

    def watch(self, optimizer: Optimizer) -> None:
        """Begin to measure what a later growth will need."""
        return None

    def ready(self, optimizer: Optimizer) -> None:
        """Raise Unsupported if a growth now could not be adjusted to."""
        return None

    def changed(self, course: Course, optimizer: Optimizer, growth: Growth) -> Course:
        """The course after a growth; nothing is touched."""
        return course

    def act(self, optimizer: Optimizer, growth: Growth) -> None:
        """Change the optimizer itself, once all courses are known."""
        return None


After = Adjustment | Sequence[Adjustment]


def in_order(after: After) -> tuple[Adjustment, ...]:
    """One or several as a tuple. Raises ValueError for anything else, and for a kind twice."""
    several: object = (after,) if isinstance(after, Adjustment) else after
    if not isinstance(several, Sequence) or isinstance(several, str):
        raise ValueError(f"after= takes an adjustment such as DivideRate(5), not {after!r}")
    for one in several:
        if not isinstance(one, Adjustment):
            hint = f": make one, {one.__name__}(...)" if isinstance(one, type) else ""
            raise ValueError(f"after= takes adjustments such as DivideRate(5), not {one!r}{hint}")
    kinds = [type(one).__name__ for one in several]
    twice = sorted({kind for kind in kinds if kinds.count(kind) > 1})
    if twice:
        raise ValueError(f"after= has {', '.join(twice)} more than once: give one of a kind")
    return tuple(several)


def check_rate(what: str, optimizer: Optimizer) -> None:
    """Raise Unsupported for an optimizer that does not step by the learning rate of its groups."""
    name = type(optimizer).__name__
    late = isinstance(optimizer, Rprop | ASGD)  # keep step sizes of their own in the state
    if late or any("lr" not in group for group in optimizer.param_groups):
        raise Unsupported(
            f"{what} cannot change the rate of {name}, whose steps do not follow the learning rate "
            f"of its groups: use SGD, Adam(W), RMSprop or Adagrad, or after=Keep()"
        )


def check_number(name: str, value: object, *, least: float, above: bool = False) -> None:
    """Raise ValueError unless it is a finite number of `least` or more (or above it)."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and math.isfinite(float(str(value))):
        found = float(str(value))
        if found > least or (found == least and not above):
            return
    bound = f"above {least:g}" if above else f"of {least:g} or more"
    raise ValueError(f"{name} must be a number {bound}, not {value!r}")


def check_whole(name: str, value: object, *, least: int) -> None:
    """Raise ValueError unless it is a whole number of `least` or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number of {least} or more, not {value!r}")
