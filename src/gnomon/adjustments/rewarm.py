"""Rewarm: after a growth the learning rate climbs anew."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch.optim import Optimizer

from gnomon.adjustments.base import Adjustment, Growth, check_number, check_rate, check_whole
from gnomon.adjustments.course import Climb, Course


@dataclass(frozen=True)
class Rewarm(Adjustment):
    """Let the learning rate climb linearly from `start` times itself back to itself.

    The i-th of `steps` steps has start + (1 - start) i/steps of the rate; a growth in the midst of
    a climb begins it anew. With start 0 the first step moves nothing but gives moments a gradient.

    Source: Goyal et al. 2017, 2.2 (gradual warm-up), applied after each growth.
    """

    steps: int
    start: float = 0.0

    def __post_init__(self) -> None:
        check_whole("steps", self.steps, least=1)
        check_number("start", self.start, least=0)
        if self.start > 1:
            raise ValueError(f"start must be a share of the rate, at most 1, not {self.start!r}")

    def check(self, optimizer: Optimizer) -> None:
        """Its steps must follow the learning rate."""
        check_rate(repr(self), optimizer)

    def changed(self, course: Course, optimizer: Optimizer, growth: Growth) -> Course:
        """A climb from its beginning."""
        return replace(course, climb=Climb(self.steps, self.start))
