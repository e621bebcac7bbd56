"""A hook that fits second moments of new entries to the gradients of their first steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from gnomon.editing.optimizers import RAISED, fresh_index, gathered
from gnomon.planning.edit import TensorEdit
from gnomon.planning.plan import Plan

Follower = Callable[[Mapping[Tensor, tuple[slice, ...]], Tensor], Callable[[], None]]


class FirstGradients:
    """Fits second moments of new entries to the gradients of their first steps.

    A hook that runs before every step of the optimizer. At the first one the moment of a new entry
    becomes its gradient's square; in the following ones it is raised to every larger square, which
    bounds the step by the learning rate while gradients still grow from zero (NetMorph's do).
    It looks at each of the first ten steps and at every tenth after that; after HOLD steps it is
    idle. Losing it earlier (a pickled optimizer has no hooks) leaves the tensor's mean, or what was
    reached.
    """

    HOLD = 100  # steps; by then new readers have grown to the size of old ones

    def __init__(self) -> None:
        self._waiting: dict[Tensor, list[tuple[Tensor, int]]] = {}  # (entries, steps) per growth
        self._stateless: dict[Tensor, None] = {}
        self.followers: list[Follower] = []  # what else of this optimizer concerns entries

    @staticmethod
    def on(optimizer: Optimizer) -> FirstGradients | None:
        """The one hook of this optimizer, if it has one."""
        hooks = optimizer._optimizer_step_pre_hooks.values()
        return next((hook for hook in hooks if isinstance(hook, FirstGradients)), None)

    @staticmethod
    def of(optimizer: Optimizer) -> tuple[FirstGradients, Callable[[], None]]:
        """The one hook of this optimizer, and how to take it off again if it is new."""
        known = FirstGradients.on(optimizer)
        if known is not None:
            return known, lambda: None
        hook = FirstGradients()
        return hook, optimizer.register_step_pre_hook(hook).remove

    def __call__(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        """Look at the gradients of this step; where a closure makes them, once it has.

        `optimizer.step(closure)` runs its hooks first: the gradients are those of the last step
        then. A hook may give other arguments to the step, here a closure that looks afterwards.
        """
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self.look(optimizer)
            return None

        def made() -> Any:
            loss = closure()
            with torch.no_grad():
                self.look(optimizer)
            return loss

        return args[:1], {**kwargs, "closure": made}

    def look(self, optimizer: Optimizer) -> None:
        """Fit second moments to the gradients that the optimizer is about to use."""
        groups = {id(p): g for g in optimizer.param_groups for p in g["params"]}
        scale = gradient_scale(optimizer)
        if self._stateless and scale is not None:
            self._begin(optimizer, groups, scale)
        for parameter, growths in list(self._waiting.items()):
            gradient = parameter.grad
            if scale is None or gradient is None or gradient.is_sparse:
                continue
            if id(parameter) not in groups:
                continue
            self._waiting[parameter] = [(new, n + 1) for new, n in growths if n + 1 < self.HOLD]
            if not self._waiting[parameter]:
                del self._waiting[parameter]
            due = [(new, steps) for new, steps in growths if steps < 10 or steps % 10 == 0]
            if due:
                state = optimizer.state.get(parameter, {})
                correction = _correction(state, groups[id(parameter)])
                square = (gradient / scale).square() * correction
                for new, steps in due:
                    _raise(state, new, square, first=not steps)

    def begin(self, parameter: Tensor) -> Callable[[], None]:
        """Give a whole new parameter a state that fits its first gradient. Returns the undo.

        For RMSprop, which corrects no bias: from zeros its first step would be ten times too long.
        """
        self._stateless[parameter] = None

        def undo() -> None:
            self._stateless.pop(parameter, None)

        return undo

    def _begin(
        self, optimizer: Optimizer, groups: Mapping[int, Mapping[str, Any]], scale: float
    ) -> None:
        for parameter in list(self._stateless):
            gradient, group = parameter.grad, groups.get(id(parameter))
            if group is None or gradient is None or gradient.is_sparse:
                continue
            del self._stateless[parameter]
            if optimizer.state.get(parameter):
                continue
            self._waiting[parameter] = [(torch.ones_like(parameter, dtype=torch.bool), 0)]
            zeros = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            state = {"step": torch.zeros(()), "square_avg": (gradient / scale).square()}
            state |= {"momentum_buffer": zeros} if group["momentum"] > 0 else {}
            state |= {"grad_avg": zeros.clone()} if group["centered"] else {}
            optimizer.state[parameter] = state

    def watch(self, parameter: Tensor, edit: TensorEdit, plan: Plan) -> Callable[[], None]:
        """Wait for the first gradients of a grown parameter's new entries. Returns the undo.

        Entries of an earlier growth that are still waited for move along with their channels. Of a
        turned parameter every entry is new in part: it keeps its moment, which may be raised.
        """
        before = self._waiting.get(parameter)
        new = torch.zeros(plan.grown_shape(edit), dtype=torch.bool, device=parameter.device)
        if plan.turns:
            growths = [(~new, 1)]
        else:
            for dim, index in fresh_index(edit, plan, parameter.device):
                new.index_fill_(dim, index, True)
            growths = [(new, 0)]
            for earlier, steps in before or ():
                for d in edit.dims:
                    earlier = gathered(earlier, d.dim, plan.embedding(d.form))
                growths.append((earlier & ~new, steps))
        self._waiting[parameter] = growths

        def undo() -> None:
            del self._waiting[parameter]
            if before is not None:
                self._waiting[parameter] = before

        return undo

    def moved(
        self, pieces: Mapping[Tensor, tuple[slice, ...]], parameter: Tensor
    ) -> Callable[[], None]:
        """Wait for the same entries where they are now: old parameters, and their places in one.

        Returns the undo.
        """
        before = dict(self._waiting)
        for old, place in pieces.items():
            for entries, steps in self._waiting.pop(old, ()):
                whole = torch.zeros(parameter.shape, dtype=torch.bool, device=parameter.device)
                whole[place] = entries
                self._waiting.setdefault(parameter, []).append((whole, steps))
        undone = [follow(pieces, parameter) for follow in self.followers]

        def undo() -> None:
            self._waiting = before
            for one in reversed(undone):
                one()

        return undo

    def forget(self, parameters: Iterable[Tensor]) -> None:
        """Wait for nothing of parameters whose state starts anew, with its own step count."""
        for parameter in parameters:
            self._waiting.pop(parameter, None)
            self._stateless.pop(parameter, None)


def gradient_scale(optimizer: Optimizer) -> float | None:
    """What gradients are multiplied by in this step; None if the step will be skipped.

    A `GradScaler` leaves both to fused optimizers, as attributes during the step.
    """
    if float(getattr(optimizer, "found_inf", None) or 0.0):
        return None
    return float(getattr(optimizer, "grad_scale", None) or 1.0)


def _raise(state: Mapping[str, Any], new: Tensor, square: Tensor, *, first: bool) -> None:
    for moment in (state[key] for key in RAISED if key in state):
        least = square.to(moment) if first else torch.maximum(moment, square.to(moment))
        moment.copy_(torch.where(new.to(moment.device), least, moment))


def _correction(state: Mapping[str, Any], group: Mapping[str, Any]) -> float:
    """What Adam will divide second moments by in the coming step; 1 for RMSprop."""
    if "exp_avg_sq" not in state or "betas" not in group:
        return 1.0
    return float(1 - group["betas"][1] ** (float(state.get("step", 0)) + 1))
