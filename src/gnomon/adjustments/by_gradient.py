"""ByGradient: the learning rate changes as the size of gradients does."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch.optim import Optimizer

from gnomon.adjustments.base import Adjustment, Growth, check_number, check_rate, check_whole
from gnomon.adjustments.comparison import Comparison
from gnomon.adjustments.course import Course
from gnomon.adjustments.pace import Pace
from gnomon.errors import Unsupported


@dataclass(frozen=True)
class ByGradient(Adjustment):
    """Multiply the learning rate by (size of gradients before / after the growth).

    Sizes are L2 norms of all gradients of one optimizer, as it gets them (after clipping). Their
    means over the last `steps` steps before and the first `steps` after are compared; until those
    are made the rate stays. least, most: bounds of the factor of one growth.

    The paper compares single mini-batches: "this either required a very large minibatch [...] or
    added a lot of variance. On some training runs the learning rate was set close to zero due to
    noise, and killed the training process". Hence the means and the bounds.

    Source: Painter & Eckstein 2022 (002), C.3, the second rule.
    """

    steps: int = 10
    least: float = 0.2
    most: float = 5.0

    def __post_init__(self) -> None:
        check_whole("steps", self.steps, least=1)
        check_number("least", self.least, least=0, above=True)
        check_number("most", self.most, least=1)
        if self.least > 1:
            raise ValueError(f"least must be at most 1, not {self.least!r}")

    def check(self, optimizer: Optimizer) -> None:
        """Its steps must follow the learning rate."""
        check_rate(repr(self), optimizer)

    def watch(self, optimizer: Optimizer) -> None:
        """Measure every step from now on."""
        pace = Pace.of(optimizer)
        known, asked = pace.course.comparison, (self.steps, self.least, self.most)
        if known is None:
            pace.set(replace(pace.course, comparison=Comparison(*asked)))
        elif (known.steps, known.least, known.most) != asked:
            new = replace(known, steps=self.steps, least=self.least, most=self.most)
            pace.set(replace(pace.course, comparison=new))

    def ready(self, optimizer: Optimizer) -> None:
        """Some step must have been measured."""
        pace = Pace.on(optimizer)
        known = None if pace is None else pace.course.comparison
        if known is None or known.empty:
            raise Unsupported(
                f"{self!r} compares with gradients before the growth, and has seen none: train a "
                f"step first. Call Timeline.advance (or Timeline.check) before the first step, so "
                f"that it can watch"
            )

    def changed(self, course: Course, optimizer: Optimizer, growth: Growth) -> Course:
        """What was measured is now "before"."""
        assert course.comparison is not None
        comparison, factor = course.comparison.grown()
        return replace(course, comparison=comparison, factor=course.factor * factor)
