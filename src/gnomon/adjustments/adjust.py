"""Apply adjustments to the optimizers of a grower, right behind one of its growths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import nn
from torch.optim import Optimizer

from gnomon.adjustments.base import Adjustment, After, Growth, in_order
from gnomon.adjustments.course import Course
from gnomon.adjustments.keep import Keep
from gnomon.adjustments.pace import Pace
from gnomon.errors import Stale, Unsupported
from gnomon.planning.plan import Plan
from gnomon.receipt import Receipt
from gnomon.recording.tape import owned_tensors


class Grown(Protocol):
    """What is needed of a grower."""

    model: nn.Module
    history: tuple[Plan, ...]
    new_parameters: tuple[nn.Parameter, ...]

    @property
    def optimizers(self) -> tuple[Optimizer, ...]:
        """Those that go along."""


def check_adjustments(
    optimizers: Sequence[Optimizer], after: After, *, growing: bool = False
) -> None:
    """Refuse now what would be refused after a growth, and begin to measure what it will need.

    growing: a growth is about to happen. Raises Unsupported; a `Timeline` asks each time.
    """
    several = _acting(after)
    if several and not optimizers:
        raise Unsupported(
            f"after={several[0]!r} cannot act: the grower has no optimizer. Give it one: "
            f"gn.Grower(model, example_inputs, optimizer)"
        )
    for one in several:
        for optimizer in optimizers:
            one.check(optimizer)
    for one in several:
        for optimizer in optimizers:
            one.watch(optimizer)
            if growing:
                one.ready(optimizer)


def adjust(grower: Grown, receipt: Receipt, after: After) -> None:
    """Adjust the optimizers of a grower to the growth that it has just made.

    after: one adjustment or several, in order. A `Timeline` with `after=` calls it; call it by hand
    where you call `grower.grow`.

    Raises Stale unless the receipt is of the grower's last growth, and Unsupported. Then the
    optimizers go on as the growth left them; the growth itself is not undone.
    """
    if not grower.history or grower.history[-1] is not receipt.plan:
        raise Stale(
            f"{receipt.plan.morph} is not the last growth of this grower: adjust right after it"
        )
    check_adjustments(grower.optimizers, after, growing=True)
    owned = owned_tensors(grower.model)
    edits = [(owned[edit.name], edit) for edit in receipt.plan.edits]
    growth = Growth(
        receipt.plan,
        receipt.parameters,
        tuple((p, edit) for p, edit in edits if isinstance(p, nn.Parameter)),
        grower.new_parameters,
    )
    several = _acting(after)
    courses = [_changed(optimizer, several, growth) for optimizer in grower.optimizers]
    for optimizer, course in zip(grower.optimizers, courses, strict=True):
        if Pace.on(optimizer) is not None or not course.idle:
            Pace.of(optimizer).set(course)
        for one in several:
            one.act(optimizer, growth)


def _changed(optimizer: Optimizer, several: Sequence[Adjustment], growth: Growth) -> Course:
    pace = Pace.on(optimizer)
    course = Course() if pace is None else pace.course
    for one in several:
        course = one.changed(course, optimizer, growth)
    return course


def _acting(after: After) -> list[Adjustment]:
    return [one for one in in_order(after) if not isinstance(one, Keep)]
