"""Carry gradients and optimizer state through the same edits as their parameter.

New entries are neither frozen nor kicked. A fused optimizer has one step count per tensor, so a
new entry gets no bias correction: with zero moments Adam would move it up to 6.6 times too far.
Therefore second moments of new entries start at the tensor's mean, and follow their own first
gradients as soon as there are any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gnomon.edit import TensorEdit
from gnomon.embedding import Embedding
from gnomon.errors import Unsupported
from gnomon.fill import in_format_of
from gnomon.plan import Plan


@dataclass(frozen=True)
class Moment:
    """A kind of optimizer state: its degree in the gradient, and where new entries start."""

    degree: int
    start: Literal["zero", "mean"]


MOMENTS: Mapping[str, Moment] = {
    "momentum_buffer": Moment(1, "zero"),  # SGD, RMSprop
    "exp_avg": Moment(1, "zero"),  # Adam and its family
    "exp_avg_sq": Moment(2, "mean"),
    "max_exp_avg_sq": Moment(2, "mean"),  # amsgrad
    "square_avg": Moment(2, "mean"),  # RMSprop, Adadelta
    "grad_avg": Moment(1, "zero"),  # centred RMSprop
    "sum": Moment(2, "zero"),  # Adagrad: a fresh sum is a fresh start
    "acc_delta": Moment(2, "mean"),  # Adadelta
    "exp_inf": Moment(1, "mean"),  # Adamax
}
RAISED = ("exp_avg_sq", "max_exp_avg_sq", "square_avg")


def check_optimizers(model: nn.Module, optimizers: Iterable[Optimizer]) -> None:
    """Raise Unsupported if an optimizer does not belong to this model."""
    own = {id(p) for p in model.parameters()}
    for optimizer in optimizers:
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if not held & own:
            raise Unsupported(
                f"{type(optimizer).__name__} holds {len(held)} parameters, none of which is this "
                f"model's: build it on this model's parameters(), not on those of a copy"
            )


def check_state(optimizer: Optimizer) -> None:
    """Raise Unsupported for state that is not of its parameter's shape: it cannot be carried."""
    name = type(optimizer).__name__
    if getattr(optimizer, "_numel_cache", None) is not None:  # LBFGS counts all parameters once
        raise Unsupported(f"{name} keeps flat vectors of all parameters: make a new one after")
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            plain = not isinstance(value, Tensor) or value.dim() == 0
            if not plain and value.shape == parameter.shape:
                continue
            if not plain or any(isinstance(v, Tensor) and v.dim() for v in _items(value)):
                raise Unsupported(
                    f"{name} keeps '{key}', which is not one tensor of its parameter's shape and "
                    f"cannot be carried along: make a new {name} after growing, or use SGD, "
                    f"Adam(W), RMSprop or Adagrad"
                )


def _items(value: object) -> list[object]:
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple | set) else []


def carried_state(
    optimizer: Optimizer, parameter: Tensor, edit: TensorEdit, plan: Plan
) -> dict[str, Tensor]:
    """The grown tensors of a parameter's state; what has no dimension is left alone.

    Raises Unsupported for state that no rule here knows.
    """
    grown = {}
    for key, value in optimizer.state.get(parameter, {}).items():
        if not isinstance(value, Tensor) or value.dim() == 0:
            continue
        moment = MOMENTS.get(key)
        if moment is None:
            raise Unsupported(
                f"{type(optimizer).__name__} keeps '{key}' for '{edit.name}', which cannot be "
                f"carried along; carried are {', '.join(MOMENTS)}. Make a new optimizer after "
                f"growing, or use SGD, Adam(W), RMSprop or Adagrad"
            )
        start = float(value.double().mean()) if moment.start == "mean" else _initial(optimizer, key)
        grown[key] = carried(value, edit, plan, degree=moment.degree, start=start)
    return grown


def _initial(optimizer: Optimizer, key: str) -> float:
    return float(optimizer.defaults.get("initial_accumulator_value", 0.0)) if key == "sum" else 0.0


def carried(value: Tensor, edit: TensorEdit, plan: Plan, *, degree: int, start: float) -> Tensor:
    """A gradient-like tensor after an edit.

    Readers of copies keep their column. r writers of one signal share its gradient: a moment of
    degree d is divided by r^d if they share evenly; if nobody knows how, first moments are divided
    by r and second ones kept, which cannot move anything too far. Fresh entries are `start`.
    """
    power = degree if plan.rule.evenly else min(degree, 2 - degree)
    new = value
    for d in edit.dims:
        e = plan.embedding(d.form)
        old = (e.source >= 0) & (e.source < e.old)
        new = _gathered(new, d.dim, e)
        copies = e.copies[e.source.clamp(min=0)]
        if d.role != "read" and bool((old & (copies > 1)).any()):
            share = torch.where(old, copies, 1).to(value) ** -power
            new = new * share.reshape([-1 if i == d.dim else 1 for i in range(value.dim())])
    for dim, index in _fresh_index(edit, plan, value.device):
        new = new.index_fill(dim, index, start)
    return in_format_of(value, new)


def _gathered(value: Tensor, dim: int, e: Embedding) -> Tensor:
    """Each old channel's entries where the channel is carried now; anything at fresh ones."""
    old = (e.source >= 0) & (e.source < e.old)
    return value.index_select(dim, torch.where(old, e.source, 0).to(value.device))


def _fresh_index(
    edit: TensorEdit, plan: Plan, device: torch.device
) -> Iterator[tuple[int, Tensor]]:
    for d in edit.dims:
        e = plan.embedding(d.form)
        fresh = ((e.source < 0) | (e.source >= e.old)).nonzero().squeeze(1)
        if fresh.numel():
            yield d.dim, fresh.to(device)


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

    @staticmethod
    def of(optimizer: Optimizer) -> tuple[FirstGradients, Callable[[], None]]:
        """The one hook of this optimizer, and how to take it off again if it is new."""
        for hook in optimizer._optimizer_step_pre_hooks.values():
            if isinstance(hook, FirstGradients):
                return hook, lambda: None
        hook = FirstGradients()
        return hook, optimizer.register_step_pre_hook(hook).remove

    def __call__(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        groups = {id(p): g for g in optimizer.param_groups for p in g["params"]}
        scale = _gradient_scale(optimizer)
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

    def watch(self, parameter: Tensor, edit: TensorEdit, plan: Plan) -> Callable[[], None]:
        """Wait for the first gradients of a grown parameter's new entries. Returns the undo.

        Entries of an earlier growth that are still waited for move along with their channels.
        """
        before = self._waiting.get(parameter)
        new = torch.zeros(plan.grown_shape(edit), dtype=torch.bool, device=parameter.device)
        for dim, index in _fresh_index(edit, plan, parameter.device):
            new.index_fill_(dim, index, True)
        growths = [(new, 0)]
        for earlier, steps in before or ():
            for d in edit.dims:
                earlier = _gathered(earlier, d.dim, plan.embedding(d.form))
            growths.append((earlier & ~new, steps))
        self._waiting[parameter] = growths

        def undo() -> None:
            del self._waiting[parameter]
            if before is not None:
                self._waiting[parameter] = before

        return undo


def _gradient_scale(optimizer: Optimizer) -> float | None:
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
