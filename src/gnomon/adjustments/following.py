"""Bring what a course says of entries and parameters to where they are after a growth."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from gnomon.adjustments.course import Course, Young
from gnomon.editing.optimizers import gathered
from gnomon.embedding import Embedding
from gnomon.planning.edit import TensorEdit
from gnomon.planning.plan import Plan

Grown = Sequence[tuple[Tensor, TensorEdit]]


def new_entries(parameter: Tensor, edit: TensorEdit, plan: Plan) -> Tensor:
    """True where an entry was not there before: at all but the first carriers of old channels.

    Bool, of the grown shape. A copy of a channel is new, what it was copied from is not. Of turned
    channels none is: all carry what was there.
    """
    new = torch.zeros(plan.grown_shape(edit), dtype=torch.bool, device=parameter.device)
    if plan.turns:
        return new
    for d in edit.dims:
        fresh = _newcomers(plan.embedding(d.form))
        new.index_fill_(d.dim, fresh.to(parameter.device), True)
    return new


def _newcomers(e: Embedding) -> Tensor:
    """The channels that are not the first to carry an old signal."""
    first = torch.full((e.signals,), e.size)
    carried = e.source >= 0
    first.scatter_reduce_(0, e.source[carried], carried.nonzero().squeeze(1), "amin")
    old = torch.zeros(e.size, dtype=torch.bool)
    old[first[: e.old][first[: e.old] < e.size]] = True
    return (~old).nonzero().squeeze(1)


def grown(course: Course, edits: Grown, plan: Plan, held: Collection[int]) -> Course:
    """After a growth by this plan. held: ids of what the optimizer still holds."""
    young = []
    for one in course.young:
        entries = {p: mask for p, mask in one.entries.items() if id(p) in held}
        for parameter, edit in edits:
            if parameter in entries:
                entries[parameter] = _carried(entries[parameter], parameter, edit, plan)
        young.append(replace(one, entries=entries))
    apart = (
        replace(one, params=tuple(p for p in one.params if id(p) in held)) for one in course.apart
    )
    return replace(
        course,
        young=tuple(one for one in young if one.entries),
        apart=tuple(one for one in apart if one.params),
    )


def _carried(mask: Tensor | None, parameter: Tensor, edit: TensorEdit, plan: Plan) -> Tensor:
    if plan.turns:
        return new_entries(parameter, edit, plan)
    if mask is None:
        mask = torch.ones(edit.shape, dtype=torch.bool, device=parameter.device)
    for d in edit.dims:
        mask = gathered(mask, d.dim, plan.embedding(d.form))
    return mask & ~new_entries(parameter, edit, plan)


def moved(course: Course, pieces: Mapping[Tensor, tuple[slice, ...]], into: Tensor) -> Course:
    """Old parameters have become parts of one: which, and their places in it."""
    apart = tuple(
        replace(one, params=(*one.params, into))
        if pieces and all(any(p is q for q in one.params) for p in pieces)
        else one
        for one in course.apart
    )
    return replace(course, young=tuple(_joined(y, pieces, into) for y in course.young), apart=apart)


def _joined(one: Young, pieces: Mapping[Tensor, tuple[slice, ...]], into: Tensor) -> Young:
    found = [(one.entries[old], place) for old, place in pieces.items() if old in one.entries]
    if not found:
        return one
    whole = torch.zeros(into.shape, dtype=torch.bool, device=into.device)
    for mask, place in found:
        whole[place] = True if mask is None else mask
    return replace(one, entries={**one.entries, into: whole})
