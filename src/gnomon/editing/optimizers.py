"""Carry gradients and optimizer state through the same edits as their parameter.

New entries are neither frozen nor kicked. A fused optimizer has one step count per tensor, so a
new entry gets no bias correction: with zero moments Adam would move it up to 6.6 times too far.
Therefore second moments of new entries start at the tensor's mean, and follow their own first
gradients as soon as there are any.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gnomon.embedding import Embedding
from gnomon.errors import Unsupported
from gnomon.planning.edit import TensorEdit
from gnomon.planning.fill import in_format_of
from gnomon.planning.pieces import Piece, grown_in_pieces, is_in_pieces
from gnomon.planning.plan import Plan


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
    for key, value, moment in moments_of(optimizer, parameter, edit.name):
        start = float(value.double().mean()) if moment.start == "mean" else _initial(optimizer, key)
        grown[key] = carried(value, edit, plan, degree=moment.degree, start=start)
    return grown


def moments_of(
    optimizer: Optimizer, parameter: Tensor, name: str
) -> Iterator[tuple[str, Tensor, Moment]]:
    """A parameter's state, but for what has no dimension. Raises Unsupported for what is unknown.

    name: of the parameter, for the message.
    """
    for key, value in optimizer.state.get(parameter, {}).items():
        if not isinstance(value, Tensor) or value.dim() == 0:
            continue
        moment = MOMENTS.get(key)
        if moment is None:
            raise Unsupported(
                f"{type(optimizer).__name__} keeps '{key}' for '{name}', which cannot be "
                f"carried along; carried are {', '.join(MOMENTS)}. Make a new optimizer after "
                f"growing, or use SGD, Adam(W), RMSprop or Adagrad"
            )
        yield key, value, moment


def _initial(optimizer: Optimizer, key: str) -> float:
    return float(optimizer.defaults.get("initial_accumulator_value", 0.0)) if key == "sum" else 0.0


def carried(value: Tensor, edit: TensorEdit, plan: Plan, *, degree: int, start: float) -> Tensor:
    """A gradient-like tensor after an edit.

    Readers of copies keep their column. r writers of one signal share its gradient: a moment of
    degree d is divided by r^d if they share evenly; if nobody knows how, first moments are divided
    by r and second ones kept, which cannot move anything too far. Where w became a * w + b, its
    gradient is divided by a. Fresh entries are `start`.
    """
    if is_in_pieces(edit):

        def part(x: Tensor, piece: Piece) -> Tensor:
            new = carried(x, piece.edit, plan, degree=degree, start=start)
            return new if piece.factor == 1 else new / piece.factor**degree

        return in_format_of(value, grown_in_pieces(value, edit, plan, part))
    power = degree if plan.rule.evenly else min(degree, 2 - degree)
    new = value * edit.scale**-degree if edit.rescales else value
    for d in edit.dims:
        e = plan.embedding(d.form)
        new = gathered(new, d.dim, e)
        if d.role != "read" and e.shares is not None:
            share = e.shares.to(value) ** -power
            new = new * share.reshape([-1 if i == d.dim else 1 for i in range(value.dim())])
    for dim, index in fresh_index(edit, plan, value.device):
        new = new.index_fill(dim, index, start)
    return in_format_of(value, new)


def gathered(value: Tensor, dim: int, e: Embedding) -> Tensor:
    """Each old channel's entries where the channel is carried now; anything at fresh ones."""
    return value.index_select(dim, e.origins.to(value.device))


def fresh_index(edit: TensorEdit, plan: Plan, device: torch.device) -> Iterator[tuple[int, Tensor]]:
    """Per grown dimension, the channels that carry no old signal."""
    for d in edit.dims:
        strangers = plan.embedding(d.form).strangers
        if strangers.numel():
            yield d.dim, strangers.to(device)
