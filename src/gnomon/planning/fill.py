"""Grow one tensor: gather what is old, draw what is fresh, solve what is read.

For a weight with fresh rows (its own channels grow) and new columns (it reads grown channels):

          old columns   new columns
    old   |    W            Z          solved, so that old rows see nothing new
    rows  |
    fresh |    U            Z          drawn once per fresh signal, then copied to its twins
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

from gnomon.draw import Draw
from gnomon.embedding import Embedding, solve
from gnomon.planning.edit import DimEdit, TensorEdit
from gnomon.planning.pieces import Piece, grown_in_pieces, is_in_pieces
from gnomon.planning.plan import Plan
from gnomon.rules.base import Rule

GROWING = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

_CHUNK = 1 << 18  # float64 entries worked on at once: bounds the extra memory


@dataclass
class Clock:
    """Seconds spent on drawing random numbers."""

    drawing: float = 0.0
    draws: list[Draw] = field(default_factory=list)

    def total(self) -> float:
        """All draws so far."""
        return sum(draw.seconds for draw in self.draws)


def grown(old: Tensor, edit: TensorEdit, plan: Plan, clock: Clock) -> Tensor:
    """The grown tensor, in new memory, with the old one's dtype, device and memory format.

    old: of shape `edit.shape`. Returns a tensor of shape `plan.grown_shape(edit)`.
    """
    if is_in_pieces(edit):
        parts = grown_in_pieces(
            old.detach(), edit, plan, lambda x, piece: _part(x, piece, plan, clock)
        )
        return in_format_of(old, parts)
    work = _Work(old.detach(), edit, plan, clock)
    return in_format_of(old, work.grow())


def _part(old: Tensor, piece: Piece, plan: Plan, clock: Clock) -> Tensor:
    new = _Work(old, piece.edit, plan, clock).grow() if piece.edit.dims else old
    return new if piece.factor == 1 else (new.double() * piece.factor).to(new.dtype)


def in_format_of(old: Tensor, new: Tensor) -> Tensor:
    """`new` in the memory format of `old`."""
    if suggest_memory_format(old) == torch.contiguous_format:
        return new.contiguous()
    return empty_in_format_of(old, new.shape).copy_(new)


def empty_in_format_of(old: Tensor, shape: Sequence[int]) -> Tensor:
    """Memory for a tensor of this shape, in the format that the strides of `old` suggest.

    By strides, because a kernel of one input channel is contiguous in both formats, and which one
    it is written in decides the format of its output.
    """
    wanted = suggest_memory_format(old)
    return torch.empty(tuple(shape), dtype=old.dtype, device=old.device, memory_format=wanted)


class _Work:
    """One tensor's growth: streams, and the dimensions that are made and that are read."""

    def __init__(self, old: Tensor, edit: TensorEdit, plan: Plan, clock: Clock) -> None:
        self.old = edit.rescaled(old).contiguous()
        self.edit, self.plan = edit, plan
        self.rule: Rule = plan.rule
        self.makes = [d for d in edit.dims if d.role != "read"]
        self.reads = [d for d in edit.dims if d.role == "read"]
        assert edit.std is not None  # the grower measures what a plan made on `meta` left open
        self.draws = {d.dim: Draw(plan.seed, edit.name, d.dim, edit.std) for d in edit.dims}
        clock.draws += self.draws.values()

    def grow(self) -> Tensor:
        if len(self.makes) == 1 and self._embedding(self.makes[0]).keeps_prefix:
            return self._grow_in_place_of(self.makes[0])
        signals = self.old
        for d in self.makes:
            fresh = self._fresh_rows(signals, d, self._embedding(d))
            signals = torch.cat([signals, fresh], d.dim)
        new = self._read(signals)
        for d in self.makes:
            new = _carried(new, d.dim, self._embedding(d).source)
        return new

    def _grow_in_place_of(self, make: DimEdit) -> Tensor:
        """The usual case, old rows first: fill the result directly, without intermediates."""
        e, dim = self._embedding(make), make.dim
        new = self.old.new_empty(self.plan.grown_shape(self.edit))
        kept = new.narrow(dim, 0, e.old)
        self._read_into(kept, self.old)
        source = e.source[e.old :].to(self.old.device)
        if not source.numel():
            return new
        rest = new.narrow(dim, e.old, source.numel())
        if e.restricted[1].twins and not e.restricted[1].old:
            pairs = torch.unflatten(rest, dim, (e.fresh, 2))
            first, second = pairs.unbind(dim + 1)
            self._read_into(first, self._fresh_rows(self.old, make, e))
            second.copy_(first)
            return new
        if e.fresh:
            fresh = self._read(self._fresh_rows(self.old, make, e))
            kept = torch.cat([kept, fresh], dim)
        rest.copy_(_carried(kept, dim, source))
        return new

    def _embedding(self, d: DimEdit) -> Embedding:
        e = self.plan.embedding(d.form)
        averages = d.role == "write" and self.edit.fill == "mean"
        if not (d.role == "follow" or averages) or not e.is_partly_silent:
            return e  # a follower of a channel of zeros may hold anything: let it live
        silent = e.source < 0
        source = torch.where(silent, e.signals - 1 + torch.cumsum(silent, 0), e.source)
        return Embedding(source, e.factor, e.old, e.fresh + int(silent.sum()))

    def _fresh_rows(self, old: Tensor, d: DimEdit, e: Embedding) -> Tensor:
        rows = _three(old.narrow(d.dim, 0, e.old), d.dim)
        if self.edit.fill == "zero":
            made = torch.zeros_like(rows[:, :1]).expand(-1, e.fresh, -1)
        elif self.edit.fill == "draw":
            made = self.rule.fresh(rows.cpu(), e, self.draws[d.dim])
        elif e.near is not None:
            made = rows[:, e.near.to(rows.device)]
        elif self.edit.fill == "copied":
            made = rows[:, torch.arange(e.fresh, device=rows.device) % e.old]
        else:
            made = rows.double().mean(1, keepdim=True).expand(-1, e.fresh, -1)
        return made.to(old).reshape(_resized(old.shape, d.dim, e.fresh))

    def _read(self, signals: Tensor) -> Tensor:
        shape = list(signals.shape)
        for d in self.reads:
            shape[d.dim] = self.plan.embedding(d.form).size
        new = signals.new_empty(shape)
        self._read_into(new, signals)
        return new

    def _read_into(self, new: Tensor, signals: Tensor) -> None:
        if not self.reads:
            new.copy_(signals)
            return
        for d in self.reads[:-1]:
            e = self.plan.embedding(d.form)
            wider = signals.new_empty(_resized(signals.shape, d.dim, e.size))
            self._read_dim_into(wider, signals, d.dim, e)
            signals = wider
        last = self.reads[-1]
        self._read_dim_into(new, signals, last.dim, self.plan.embedding(last.form))

    def _read_dim_into(self, new: Tensor, old: Tensor, dim: int, e: Embedding) -> None:
        for start, source, length in e.runs:
            new.narrow(dim, start, length).copy_(old.narrow(dim, source, length))
        if not e.touched.numel():
            return
        owners, touched = e.restricted
        if touched.twins and not touched.old and self.rule.preserves:
            self._read_twins_into(new, old, dim, e)
            return
        place, owners = e.touched.to(old.device), owners.to(old.device)
        first, last = int(e.touched[0]), int(e.touched[-1])
        whole = last - first + 1 == e.touched.numel()
        for rows in _row_chunks(old.shape, dim, touched.size):
            part, target = (old, new) if dim == 0 else (old[rows], new[rows])
            columns = _three(part.index_select(dim, owners), dim).double().cpu()
            z = self.rule.free(columns, touched, self.draws[dim])
            z = solve(z, columns, touched, old.dtype) if self.rule.preserves else z.to(old.dtype)
            z = z.to(old.device).reshape(_resized(part.shape, dim, touched.size))
            if whole:
                target.narrow(dim, first, touched.size).copy_(z)
            else:
                target.index_copy_(dim, place, z)

    def _read_twins_into(self, new: Tensor, old: Tensor, dim: int, e: Embedding) -> None:
        """+b and -b, the one solution for pairs of fresh signals; only b is drawn."""
        touched = e.restricted[1]
        for rows in _row_chunks(old.shape, dim, touched.fresh):
            part, target = (old, new) if dim == 0 else (old[rows], new[rows])
            columns = _three(part.narrow(dim, 0, 0), dim).double().cpu()
            b = self.rule.free(columns, touched.singles, self.draws[dim])
            b = b.to(old.dtype).to(old.device).reshape(_resized(part.shape, dim, touched.fresh))
            for start, first, count in e.pair_runs:
                pairs = torch.unflatten(target.narrow(dim, start, 2 * count), dim, (count, 2))
                left, right = pairs.unbind(dim + 1)
                left.copy_(b.narrow(dim, first, count))
                torch.neg(left, out=right) if right.is_contiguous() else right.copy_(-left)


def _carried(signals: Tensor, dim: int, source: Tensor) -> Tensor:
    """Channels by the signal they carry; zeros where they carry none."""
    source = source.to(signals.device)
    new = signals.index_select(dim, source.clamp(min=0))
    silent = (source < 0).nonzero().squeeze(1)
    return new.index_fill_(dim, silent, 0) if silent.numel() else new


def _three(x: Tensor, dim: int) -> Tensor:
    """(O, N, I): everything before the dimension, the dimension, everything after."""
    return x.reshape(prod(x.shape[:dim]), x.shape[dim], prod(x.shape[dim + 1 :]))


def _resized(shape: torch.Size, dim: int, size: int) -> list[int]:
    return [*shape[:dim], size, *shape[dim + 1 :]]


def _row_chunks(shape: torch.Size, dim: int, size: int) -> Iterator[slice]:
    """Slices of the first dimension, each small enough to work on in float64.

    The sizes depend on shapes alone, so the streams are drawn alike everywhere.
    """
    if dim == 0:
        yield slice(None)
        return
    step = max(1, _CHUNK // max(1, size * prod(shape) // shape[0] // shape[dim]))
    for start in range(0, shape[0], step):
        yield slice(start, start + step)
