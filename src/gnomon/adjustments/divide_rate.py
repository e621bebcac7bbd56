"""DivideRate: each growth divides the learning rate by one number."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch.optim import Optimizer

from gnomon.adjustments.base import Adjustment, Growth, check_number, check_rate
from gnomon.adjustments.course import Course


@dataclass(frozen=True)
class DivideRate(Adjustment):
    """Divide the learning rate by a number, on top of whatever a scheduler does.

    Source: Painter, Towards a More Complete Theory of FPTs (000), Fig. 8: by 5 at the transform.
    """

    by: float

    def __post_init__(self) -> None:
        check_number("by", self.by, least=0, above=True)

    def check(self, optimizer: Optimizer) -> None:
        """Its steps must follow the learning rate."""
        check_rate(repr(self), optimizer)

    def changed(self, course: Course, optimizer: Optimizer, growth: Growth) -> Course:
        """The factor divided."""
        return replace(course, factor=course.factor / self.by)
