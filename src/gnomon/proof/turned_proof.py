"""The proof on the stored tensors of a turned stream: `V' T = V diag(gain)` and `W' = T W`."""

from __future__ import annotations

import torch
from torch import Tensor

from gnomon.axes import Form
from gnomon.planning.edit import DimEdit, TensorEdit
from gnomon.planning.plan import Plan
from gnomon.planning.turned import Act, Gains, along, by_gains, is_constant, times

_ROUNDING = 2.0**-46  # of the products with a matrix, which are in float64 in every dtype


def turn_problem(plan: Plan) -> str:
    """What is wrong with a matrix that norms must not notice: T'T = (K / N) 1 and T 1 = 1."""
    for name, e in plan.embeddings.items():
        if e.turn is None:
            continue
        t = e.matrix
        square = t.T @ t * (e.old / e.size) - torch.eye(e.old, dtype=t.dtype)
        off = max(float(square.abs().max()), float((t.sum(1) - 1).abs().max()))
        if not off <= 1e-12:
            return f"the matrix that turns '{name}' is off by {off:.1e}"
    return ""


def turned_problem(old: Tensor, new: Tensor, edit: TensorEdit, plan: Plan, gains: Gains) -> str:
    """What is wrong with a stored tensor, seen as its writers and readers use it; "" for nothing.

    gains: the old ones, by name.
    """
    kept = edit.rescaled(old.detach())
    if is_constant(edit):
        off = float((new.double() - kept.double().flatten()[0]).abs().max())
        return f"a gain is off by {off:.1e}" if off else ""
    seen, kept, reach = new.detach().double(), by_gains(kept.double(), edit, gains), 1.0
    for d in edit.dims:
        if d.role == "read":
            seen = along(seen, _grown(d, plan), _read(plan))
            matrices = (plan.embeddings[name].matrix for name in d.form.names())
            reach *= max(float(t.abs().sum(0).max()) for t in matrices)
        else:
            kept = along(kept, d, _written(plan))
    if not seen.numel():
        return ""
    error = float((seen - kept).abs().max())
    largest = max(float(new.abs().max()) * reach, float(kept.abs().max()))
    limit = (2 * torch.finfo(old.dtype).eps + _ROUNDING) * largest
    return "" if error <= limit else f"it is off by {error:.1e}"


def _grown(d: DimEdit, plan: Plan) -> DimEdit:
    """The same dimension with the sizes that it has now."""
    return DimEdit(d.dim, d.role, _with_sizes(d.form, plan), d.behind)


def _with_sizes(form: Form, plan: Plan) -> Form:
    parts = tuple(_with_sizes(part, plan) for part in form.parts)
    return Form(form.kind, form.grown(plan.sizes), form.name, parts, form.against)


def _read(plan: Plan) -> Act:
    return lambda x, dim, group: times(x, dim, plan.embeddings[group].matrix.T)


def _written(plan: Plan) -> Act:
    return lambda x, dim, group: times(x, dim, plan.embeddings[group].matrix)
