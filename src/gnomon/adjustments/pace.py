"""The hook that keeps an optimizer on its course: one for each optimizer, for all its growths."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gnomon.adjustments import following
from gnomon.adjustments.course import Course
from gnomon.adjustments.step import Step
from gnomon.adjustments.view import split
from gnomon.editing.first_gradients import FirstGradients, gradient_scale
from gnomon.planning.plan import Plan
from gnomon.recording.tape import owned_tensors

Undo = Callable[[], None]


class Pace:
    """Runs each step of one optimizer at the rates of its course, and counts the steps.

    A step that raises, or that a GradScaler skips, does not count. Copies and pickles of an
    optimizer have no hooks, so they have no course: `gnomon.callbacks.Progress` saves it.
    """

    def __init__(self) -> None:
        self.course = Course()
        self._step: Step | None = None

    @staticmethod
    def on(optimizer: Optimizer) -> Pace | None:
        """The one hook of this optimizer, if it has one."""
        hooks = optimizer._optimizer_step_pre_hooks.values()
        return next((hook for hook in hooks if isinstance(hook, Pace)), None)

    @staticmethod
    def of(optimizer: Optimizer) -> Pace:
        """The one hook of this optimizer.

        It stands behind FirstGradients, also in a resumed run: their order decides about bits.
        """
        known = Pace.on(optimizer)
        if known is not None:
            return known
        pace = Pace()
        FirstGradients.of(optimizer)[0].followers.append(pace.moved)
        optimizer.register_step_pre_hook(pace)
        optimizer.register_step_post_hook(pace.end)
        return pace

    @torch.no_grad()
    def __call__(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        """Let the step run on a stand-in with other rates."""
        if self._step is not None:  # of a step that raised
            self._step.give_back_gradients()
            self._step = None
        scale = None if self.course.idle else gradient_scale(optimizer)
        if scale is None:
            return None
        self._step = step = Step(optimizer, self.course, scale)
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            step.look()
            return (step.view.optimizer, *args[1:]), kwargs

        def made() -> Any:
            step.give_back_gradients()
            with torch.enable_grad():
                loss = closure()
            with torch.no_grad():
                step.look()
            return loss

        return (step.view.optimizer,), {**kwargs, "closure": made}

    @torch.no_grad()
    def end(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Behind a step that went well."""
        step, self._step = self._step, None
        if step is not None:
            self.course = step.end()
            step.view.give_back(optimizer)

    def set(self, course: Course) -> Undo:
        """Take another course. Returns the undo."""
        before, self.course = self.course, course

        def undo() -> None:
            self.course = before

        return undo

    def moved(self, pieces: Mapping[Tensor, tuple[slice, ...]], parameter: Tensor) -> Undo:
        """Old parameters have become parts of one. Returns the undo."""
        return self.set(following.moved(self.course, pieces, parameter))


def follow(optimizer: Optimizer, model: nn.Module, plan: Plan) -> Undo:
    """Bring an optimizer's course through a growth of its model. Returns the undo."""
    pace = Pace.on(optimizer)
    if pace is None:
        return lambda: None
    owned = owned_tensors(model)
    edits = [(owned[edit.name], edit) for edit in plan.edits]
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return pace.set(following.grown(pace.course, edits, plan, held))


def rates(optimizer: Optimizer) -> list[float]:
    """The learning rate that each of its groups will have in the coming step.

    Of a group as a whole: what new weights alone get is not in it.
    """
    pace = Pace.on(optimizer)
    course = Course() if pace is None else pace.course
    return [float(split(group, course)[0]["lr"]) for group in optimizer.param_groups]
