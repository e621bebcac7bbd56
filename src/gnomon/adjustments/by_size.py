"""BySize: the learning rate falls as the number of parameters grows."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch.optim import Optimizer

from gnomon.adjustments.base import Adjustment, Growth, check_number, check_rate
from gnomon.adjustments.course import Course


@dataclass(frozen=True)
class BySize(Adjustment):
    """Multiply the learning rate by (parameters before / after) ** power.

    An update of Adam moves every parameter about as far, so power 1 keeps its L1 size and .5 its
    L2 size. Counted are all parameters of the model.

    Source: Painter & Eckstein 2022 (002), C.3: alpha' = alpha |theta_1| / |theta_2|.
    """

    power: float = 1.0

    def __post_init__(self) -> None:
        check_number("power", self.power, least=0)

    def check(self, optimizer: Optimizer) -> None:
        """Its steps must follow the learning rate."""
        check_rate(repr(self), optimizer)

    def changed(self, course: Course, optimizer: Optimizer, growth: Growth) -> Course:
        """The factor times the ratio of sizes."""
        before, after = growth.parameters
        return replace(course, factor=course.factor * (before / after) ** self.power)
