"""Gradients and optimizer state of tensors that are turned (see `gnomon.turned`)."""

from __future__ import annotations

import torch
from torch import Tensor

from gnomon.edit import DimEdit, TensorEdit
from gnomon.fill import in_format_of
from gnomon.plan import Plan
from gnomon.turned import Act, Gains, along, behind, gain_of, is_constant, scaled, times

_LEAST = 0.01  # of a norm's largest gain: what gradients are divided by at least


def turned_gradient(value: Tensor, edit: TensorEdit, plan: Plan, gains: Gains) -> Tensor:
    """A gradient, or a moment of first degree, of a turned tensor; zero for a gain."""
    if is_constant(edit):
        return value.new_zeros(plan.grown_shape(edit))
    new = value.double()
    for d in edit.dims:
        new = along(new, d, _gradient(plan, gains, d))
    return in_format_of(value, (new / edit.scale).to(value.dtype))


def turned_squares(
    value: Tensor, edit: TensorEdit, plan: Plan, gains: Gains, *, degree: int
) -> Tensor:
    """A moment that is never negative: mixed with squares of the matrices, so that it stays so.

    degree: 2 for squares, 1 for largest absolute values. Writers also get gradients by what their
    readers read anew: (1 - N / K) of the mean is added for it. A gain's is its mean.
    """
    squares = value.double() ** (2 / degree)
    if is_constant(edit):
        new = squares.mean().expand(plan.grown_shape(edit)).clone()
    else:
        new = squares
        for d in edit.dims:
            new = along(new, d, _squares(plan, gains, d))
        new = new / edit.scale**2
    return in_format_of(value, (new ** (degree / 2)).to(value.dtype))


def _gradient(plan: Plan, gains: Gains, d: DimEdit) -> Act:
    def act(x: Tensor, dim: int, group: str) -> Tensor:
        e, b = plan.embeddings[group], behind(d, group)
        if d.role == "write":
            x = x if b is None else scaled(x, dim, gain_of(gains, b))
            return times(x, dim, e.matrix * (e.old / e.size))
        x = x if b is None else scaled(x, dim, 1 / _away_from_zero(gain_of(gains, b)))
        return times(x, dim, e.matrix)

    return act


def _squares(plan: Plan, gains: Gains, d: DimEdit) -> Act:
    def act(x: Tensor, dim: int, group: str) -> Tensor:
        e, b = plan.embeddings[group], behind(d, group)
        if d.role == "write":
            x = x if b is None else scaled(x, dim, gain_of(gains, b) ** 2)
            q = e.old / e.size
            return times(x, dim, (e.matrix * q) ** 2) + (1 - q) * x.mean(dim, keepdim=True)
        x = x if b is None else scaled(x, dim, _away_from_zero(gain_of(gains, b)) ** -2)
        return times(x, dim, e.matrix**2)

    return act


def _away_from_zero(gain: Tensor) -> Tensor:
    least = _LEAST * gain.abs().max().clamp(min=1e-30)
    return torch.where(gain.abs() < least, torch.where(gain < 0, -least, least), gain)
