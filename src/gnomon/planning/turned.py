"""Turn one tensor: what it holds, and what gradients and moments become, when channels are turned.

    writers   W' = T W            readers   V' = V diag(gain) T+ + Z (1 - T T+)
    biases    b' = T (b / gain)   gains     one number

T has shape (K, N), T+ = (N / K) T'. Behind a norm whose gain goes into the readers, gain is that of
the norm, else 1. A gradient is turned by the transpose of what its weight is turned back by:

    dW' = (N / K) T dW            dV' = (dV / gain) T'            db' = (N / K) T (gain db)

Second moments have no counterpart that is exact: they are mixed with the squares of these matrices,
as of gradients that do not depend on each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

import torch
from torch import Tensor

from gnomon.axes import Form
from gnomon.draw import Draw
from gnomon.embedding import Embedding
from gnomon.errors import CannotPreserve
from gnomon.planning.edit import Behind, DimEdit, TensorEdit
from gnomon.planning.plan import Plan
from gnomon.planning.turning import divided, values

Gains = Mapping[str, Tensor]
Act = Callable[[Tensor, int, str], Tensor]  # (tensor, dimension of one leaf, the leaf's name)

_CHUNK = 1 << 20  # float64 entries worked on at once: bounds the extra memory


def gains_of(plan: Plan, owned: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of the gains that a plan moves into other tensors, as they are before that."""
    names = {b.gain for edit in plan.edits for d in edit.dims for b in d.behind}
    return {name: owned[name].detach().clone() for name in names}


def turned(old: Tensor, edit: TensorEdit, plan: Plan, gains: Gains, draws: list[Draw]) -> Tensor:
    """The turned tensor, in new memory, of the old one's dtype and device.

    gains: of `gains_of`.   draws: gets the streams that were drawn from.
    Raises CannotPreserve for a gain that had to be one number and is not, or that is 0.
    """
    x = edit.rescaled(old.detach())
    if is_constant(edit):
        return _constant(x, edit, plan)
    own = {
        d.dim: Draw(plan.seed, edit.name, d.dim, edit.std or 0.0)
        for d in edit.dims
        if d.role == "read"
    }
    draws += own.values()
    new = x.new_empty(plan.grown_shape(edit))
    dim, step = _chunks(edit, new.shape)
    for start in range(0, new.shape[dim], step):
        length = min(step, new.shape[dim] - start)
        part = x.narrow(dim, start, length) if step < new.shape[dim] else x
        part = by_gains(part.double(), edit, gains)
        for d in edit.dims:
            if d.role == "write":
                part = along(part, d, _written(plan))
        for d in edit.dims:
            if d.role == "read":
                part = along(part, d, _read(plan, own[d.dim]))
        target = new.narrow(dim, start, length) if step < new.shape[dim] else new
        target.copy_(part)
    return new


def _chunks(edit: TensorEdit, shape: torch.Size) -> tuple[int, int]:
    """A dimension that does not grow, and how much of it is worked on at once; else all."""
    growing = {d.dim for d in edit.dims}
    dim = next((i for i in range(len(shape)) if i not in growing), 0)
    if dim in growing:
        return dim, shape[dim]
    return dim, max(1, _CHUNK * shape[dim] // max(1, prod(shape)))


def is_constant(edit: TensorEdit) -> bool:
    return all(d.role == "follow" for d in edit.dims)


def _constant(x: Tensor, edit: TensorEdit, plan: Plan) -> Tensor:
    """A gain that is one number, of the grown shape."""
    number = x.flatten()[0]
    if not bool((x == number).all()):
        raise CannotPreserve(
            f"'{edit.name}' differs from channel to channel and would have to be one number for a "
            f"turn of its channels; use NetMorph(zero='writers')"
        )
    return x.new_empty(plan.grown_shape(edit)).copy_(number)


def along(x: Tensor, d: DimEdit, act: Act) -> Tensor:
    """Act on every named leaf of a dimension, whatever it is a part of."""
    return _along(x, d.dim, d.form, act)


def _along(x: Tensor, dim: int, form: Form, act: Act) -> Tensor:
    if not form.names():
        return x
    if form.kind == "leaf":
        return act(x, dim, form.name)
    sizes = [part.size for part in form.parts]
    if form.kind == "sum":
        parts = zip(torch.split(x, sizes, dim), form.parts, strict=True)
        return torch.cat([_along(y, dim, part, act) for y, part in parts], dim)
    x = torch.unflatten(x, dim, sizes)
    for i, part in enumerate(form.parts):
        x = _along(x, dim + i, part, act)
    return x.flatten(dim, dim + len(sizes) - 1)


def times(x: Tensor, dim: int, matrix: Tensor) -> Tensor:
    """`matrix` applied along one dimension, in float64 on the tensor's device."""
    moved = x.double().movedim(dim, -1)
    return (moved @ matrix.to(moved.device).T).movedim(-1, dim)


def scaled(x: Tensor, dim: int, factors: Tensor) -> Tensor:
    """Every channel of a dimension times its factor."""
    return x * factors.to(x.device).reshape([-1 if i == dim else 1 for i in range(x.dim())])


def by_gains(x: Tensor, edit: TensorEdit, gains: Gains) -> Tensor:
    """A tensor before it is turned: readers times the gain they take over, biases divided by it."""
    for d in edit.dims:
        for b in d.behind:
            if d.role == "write":  # the bias of a norm, as long as its gain
                x = divided(x, gain_of(gains, b).to(x.device), edit.name, b.gain)
            else:
                x = times_gain(x, d, b, gain_of(gains, b))
    return x


def times_gain(x: Tensor, d: DimEdit, b: Behind, factors: Tensor) -> Tensor:
    """Every channel behind one gain times its factor; of a bias every entry."""
    if d.role == "write" or b.whole:
        return scaled(x, d.dim, factors)
    return along(x, d, lambda y, dim, group: scaled(y, dim, factors) if group == b.group else y)


def gain_of(gains: Gains, b: Behind) -> Tensor:
    """(N,) float64, on the CPU."""
    return values(gains[b.gain], b.slope, b.offset).cpu()


def _written(plan: Plan) -> Act:
    return lambda x, dim, group: times(x, dim, plan.embeddings[group].matrix)


def _read(plan: Plan, draw: Draw) -> Act:
    def act(x: Tensor, dim: int, group: str) -> Tensor:
        e, shape = plan.embeddings[group], x.shape
        flat = x.reshape(prod(shape[:dim]), shape[dim], prod(shape[dim + 1 :]))
        free = plan.rule.free(flat, e, draw).to(x.device)
        missing = flat - times(free, 1, e.matrix.T)
        made = free + times(missing, 1, back(e).T)
        return made.reshape(*shape[:dim], e.size, *shape[dim + 1 :])

    return act


def back(e: Embedding) -> Tensor:
    """T+, (N, K): what undoes the turn."""
    return e.matrix.T * (e.old / e.size)
