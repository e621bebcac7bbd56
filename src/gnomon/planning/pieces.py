"""Tensors of which one dimension holds channels that are written and channels that are read.

The rows of a fused query-key-value weight: those of the queries write channels, those of the keys
are read against them.

    dimension   [ q: d | k: d | v: d ]      pieces   q+v (written)   k (read against q)

Each piece is an edit of its own, with the factors of its axis as dimensions of their own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gnomon.axes import Form, Misfit
from gnomon.planning.edit import DimEdit, TensorEdit
from gnomon.planning.plan import Plan


def marked(form: Form, name: str, mask: Tensor, factor: float) -> Form:
    """The form with the channels `name` read against another side where `mask` says so.

    mask: bool, one per position. Raises Misfit if it cuts through what grows.
    """
    if name not in form.names() or not bool(mask.any()):
        return form
    if form.kind == "leaf":
        if not bool(mask.all()):
            raise Misfit(f"some of '{name}' are on one side of a product, some on the other")
        return replace(form, against=factor)
    if form.kind == "sum":
        parts = zip(form.parts, torch.split(mask, [p.size for p in form.parts]), strict=True)
        return replace(form, parts=tuple(marked(p, name, m, factor) for p, m in parts))
    return _marked_product(form, name, mask, factor)


def _marked_product(form: Form, name: str, mask: Tensor, factor: float) -> Form:
    first, *others = form.parts
    rest = others[0] if len(others) == 1 else _product(others)
    rows = mask.reshape(first.size, -1)
    if name in first.names():
        if not bool((rows == rows[:, :1]).all()):
            raise Misfit(f"some of '{name}' are on one side of a product, some on the other")
        return _product([marked(first, name, rows[:, 0], factor), *others])
    if bool((rows == rows[:1]).all()):
        return _product([first, *_factors(marked(rest, name, rows[0], factor))])
    if first.names():
        raise Misfit(f"which side '{name}' is on depends on '{min(first.names())}'")
    same = (rows[1:] == rows[:-1]).all(1)
    starts = [0, *((~same).nonzero().squeeze(1) + 1).tolist(), first.size]
    runs = []
    for start, stop in itertools.pairwise(starts):
        inner = marked(rest, name, rows[start], factor)
        several = stop - start > 1
        outer = [Form("leaf", stop - start)] if several else []
        runs.append(_product([*outer, *_factors(inner)]) if several else inner)
    return Form("sum", form.size, "", tuple(runs))


def _factors(form: Form) -> tuple[Form, ...]:
    return form.parts if form.kind == "product" else (form,)


def _product(parts: list[Form]) -> Form:
    if len(parts) == 1:
        return parts[0]
    size = 1
    for part in parts:
        size *= part.size
    return Form("product", size, "", tuple(parts))


@dataclass(frozen=True, eq=False)
class Piece:
    """A part of a tensor, seen with one dimension for each factor of its axis.

    edit:     of this part alone.
    dim:      the dimension of the whole tensor that is cut.
    old, new: where the part lies along it, before and after: int64, one dimension per factor.
    factor:   what its numbers are multiplied by.
    """

    edit: TensorEdit
    dim: int
    old: Tensor
    new: Tensor
    factor: float

    def taken(self, x: Tensor, at: Tensor) -> Tensor:
        """This part of a tensor, where `at` says it lies."""
        part = x.index_select(self.dim, at.reshape(-1).to(x.device))
        return torch.unflatten(part, self.dim, tuple(at.shape))

    def put(self, whole: Tensor, part: Tensor) -> None:
        """Write this part of the grown tensor."""
        flat = part.flatten(self.dim, self.dim + self.new.dim() - 1)
        whole.index_copy_(self.dim, self.new.reshape(-1).to(whole.device), flat.to(whole.dtype))


def is_in_pieces(edit: TensorEdit) -> bool:
    """Whether some channels of a tensor are written and some read along one dimension."""
    return any(d.form.is_against for d in edit.dims)


def pieces(edit: TensorEdit, plan: Plan) -> list[Piece]:
    """The parts of a tensor, each with its own edit."""
    cut = next(d for d in edit.dims if d.form.is_against)
    found = []
    for i, (parts, old, new) in enumerate(_places(cut.form, plan.sizes)):
        inner = [
            DimEdit(cut.dim + j, "read" if part.against else cut.role, replace(part, against=0.0))
            for j, part in enumerate(parts)
            if part.names()
        ]
        more = old.dim() - 1
        others = [
            replace(d, dim=d.dim + more * (d.dim > cut.dim)) for d in edit.dims if d is not cut
        ]
        shape = (*edit.shape[: cut.dim], *old.shape, *edit.shape[cut.dim + 1 :])
        dims = tuple(sorted((*inner, *others), key=lambda d: d.dim))
        factor = next((part.against for part in parts if part.against), 1.0)
        own = replace(edit, name=f"{edit.name}#{i}", dims=dims, shape=shape)
        found.append(Piece(own, cut.dim, old, new, factor))
    return found


def grown_in_pieces(
    old: Tensor, edit: TensorEdit, plan: Plan, grow: Callable[[Tensor, Piece], Tensor]
) -> Tensor:
    """The grown tensor, put together from what `grow` makes of each part."""
    new = old.new_zeros(plan.grown_shape(edit))
    for piece in pieces(edit, plan):
        piece.put(new, grow(piece.taken(old, piece.old), piece))
    return new


def _places(form: Form, sizes: Mapping[str, int]) -> list[tuple[tuple[Form, ...], Tensor, Tensor]]:
    """(factors, old positions, new positions) of each part of an axis that is all of one kind."""
    if form.kind == "leaf" or not form.is_against:
        return [((form,), torch.arange(form.size), torch.arange(form.grown(sizes)))]
    if form.kind == "sum":
        found, start, later = [], 0, 0
        for part in form.parts:
            found += [(f, old + start, new + later) for f, old, new in _places(part, sizes)]
            start, later = start + part.size, later + part.grown(sizes)
        return found
    found = [((), torch.zeros((), dtype=torch.int64), torch.zeros((), dtype=torch.int64))]
    for part in form.parts:
        found = [
            ((*f, *g), _outer(a, part.size, b), _outer(c, part.grown(sizes), d))
            for f, a, c in found
            for g, b, d in _places(part, sizes)
        ]
    return found


def _outer(left: Tensor, size: int, right: Tensor) -> Tensor:
    """Row-major positions in a product: all of `left` with all of `right`."""
    return left.reshape(*left.shape, *[1] * right.dim()) * size + right
