"""Gradients and optimizer state of tensors that are turned (see `gnomon.turned`)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer

from gnomon.editing.optimizers import RAISED, moments_of
from gnomon.planning.edit import DimEdit, TensorEdit
from gnomon.planning.fill import in_format_of
from gnomon.planning.plan import Plan
from gnomon.planning.turned import Act, Gains, along, gain_of, is_constant, times, times_gain

_LEAST = 0.01  # of a norm's largest gain: what gradients are divided by at least


def turned_gradient(value: Tensor, edit: TensorEdit, plan: Plan, gains: Gains) -> Tensor:
    """A gradient, or a moment of first degree, of a turned tensor; zero for a gain."""
    if is_constant(edit):
        return value.new_zeros(plan.grown_shape(edit))
    new = _by_gains(value.double(), edit, gains, written=1, read=-1)
    for d in edit.dims:
        new = along(new, d, _gradient(plan, d))
    return in_format_of(value, (new / edit.scale).to(value.dtype))


def turned_state(
    optimizer: Optimizer, parameter: Tensor, edit: TensorEdit, plan: Plan, gains: Gains
) -> dict[str, Tensor]:
    """The state of a turned parameter; what has no dimension is left alone.

    First moments are turned as gradients are. Squares are mixed by the squares of the matrices, and
    then no smaller than the square of the first moment: turned, those of many channels may add up
    in one. The momentum of RMSprop is made of steps, and turned as weights are. A gain starts anew:
    first moments zero, squares their mean. So does the centre of a centred RMSprop.

    Raises Unsupported for state that no rule here knows.
    """
    new = {}
    for key, value, moment in moments_of(optimizer, parameter, edit.name):
        if key == "momentum_buffer" and "square_avg" in optimizer.state[parameter]:
            new[key] = _turned_update(value, edit, plan, gains)
        elif key == "grad_avg":
            new[key] = value.new_zeros(plan.grown_shape(edit))
        elif moment.degree == 1 and moment.start == "zero":
            new[key] = turned_gradient(value, edit, plan, gains)
        else:
            squares = _mixed(value.double() ** (2 / moment.degree), edit, plan, gains)
            new[key] = in_format_of(value, (squares ** (moment.degree / 2)).to(value.dtype))
    if "exp_avg" in new:
        least = new["exp_avg"].square() * _correction(optimizer, parameter)
        new |= {key: torch.maximum(new[key], least) for key in RAISED if key in new}
    return new


def _turned_update(value: Tensor, edit: TensorEdit, plan: Plan, gains: Gains) -> Tensor:
    """Steps of a turned tensor: those after which it is the turned tensor of the stepped one."""
    if is_constant(edit):
        return value.new_zeros(plan.grown_shape(edit))
    new = _by_gains(value.double(), edit, gains, written=-1, read=1) * edit.scale
    for d in edit.dims:
        new = along(new, d, _update(plan, d))
    return in_format_of(value, new.to(value.dtype))


def _mixed(squares: Tensor, edit: TensorEdit, plan: Plan, gains: Gains) -> Tensor:
    """Of gradients that do not depend on each other; float64."""
    if is_constant(edit):
        return squares.double().mean().expand(plan.grown_shape(edit))
    new = _by_gains(squares.double(), edit, gains, written=2, read=-2)
    for d in edit.dims:
        new = along(new, d, _squares(plan, d))
    return new / edit.scale**2


def _correction(optimizer: Optimizer, parameter: Tensor) -> float:
    """What Adam's corrections of a square are to those of a first moment's square."""
    group = next(g for g in optimizer.param_groups if any(p is parameter for p in g["params"]))
    steps = float(optimizer.state[parameter].get("step", 0))
    if not steps or "betas" not in group:
        return 1.0
    first, second = (1 - float(beta) ** steps for beta in group["betas"])
    return second / first**2 if first else 1.0


def _by_gains(x: Tensor, edit: TensorEdit, gains: Gains, *, written: float, read: float) -> Tensor:
    """Times powers of the gains that were moved into a tensor: other ones in biases and readers."""
    for d in edit.dims:
        power = written if d.role == "write" else read
        for b in d.behind:
            gain = gain_of(gains, b)
            x = times_gain(x, d, b, (gain if power > 0 else _away_from_zero(gain)) ** power)
    return x


def _gradient(plan: Plan, d: DimEdit) -> Act:
    def act(x: Tensor, dim: int, group: str) -> Tensor:
        e = plan.embeddings[group]
        return times(x, dim, e.matrix * (e.old / e.size if d.role == "write" else 1.0))

    return act


def _update(plan: Plan, d: DimEdit) -> Act:
    def act(x: Tensor, dim: int, group: str) -> Tensor:
        e = plan.embeddings[group]
        return times(x, dim, e.matrix * (1.0 if d.role == "write" else e.old / e.size))

    return act


def _squares(plan: Plan, d: DimEdit) -> Act:
    def act(x: Tensor, dim: int, group: str) -> Tensor:
        e = plan.embeddings[group]
        if d.role == "read":
            return times(x, dim, e.matrix**2)
        q = e.old / e.size
        more = (1 - q) * x.mean(dim, keepdim=True)  # by what readers read anew
        return times(x, dim, (e.matrix * q) ** 2) + more

    return act


def _away_from_zero(gain: Tensor) -> Tensor:
    least = _LEAST * gain.abs().max().clamp(min=1e-30)
    return torch.where(gain.abs() < least, torch.where(gain < 0, -least, least), gain)
