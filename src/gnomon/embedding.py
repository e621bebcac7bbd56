"""Embeddings and the one equation: `V' E = [V, 0]`.

Old channels carry n signals x; growing adds `fresh` signals f. Every channel j of the grown axis
carries `factor[j]` times the signal `source[j]`: an old one (below n), a fresh one (n and above),
or nothing at all (-1). Readers V must become V' with V' E = [V, 0]; all solutions are

    V' = Z + ([V, 0] - Z E) E+        with Z free, and  E+[s, j] = factor[j] / sum of squares in s

so everything is a gather and a segment sum, and no matrix is ever built.

Shapes in this file: a tensor is seen as (O, N, I), with the growing axis in the middle;
N old channels, K grown ones, S = N + fresh signals.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from gnomon.axes import Form
from gnomon.isometries import isometry


@dataclass(frozen=True, eq=False)
class Embedding:
    """What each channel of a grown axis carries.

    source: (K,) int64 signal of each channel; -1 is the zero signal.
    factor: (K,) float64, non-zero.
    old:    number of old channels N.
    fresh:  number of fresh signals.
    near:   (fresh,) int64 old channel each fresh signal starts near, or None.
    turn:   the key of the matrix by which the channels are turned, or None. Then they carry
            `matrix` times the old signals; `source` counts them as if the new ones carried nothing.
    """

    source: Tensor
    factor: Tensor
    old: int
    fresh: int
    near: Tensor | None = None
    turn: int | None = None

    def __post_init__(self) -> None:
        if self.source.shape != self.factor.shape or self.source.dim() != 1:
            raise ValueError("source and factor must be vectors of one length")
        if self.source.numel() and not (
            -1 <= int(self.source.min()) and int(self.source.max()) < self.signals
        ):
            raise ValueError(f"sources must lie in [-1, {self.signals})")

    @property
    def signals(self) -> int:
        """Old and fresh signals together: S."""
        return self.old + self.fresh

    @cached_property
    def size(self) -> int:
        """Channels of the grown axis: K."""
        return self.source.numel()

    @cached_property
    def matrix(self) -> Tensor:
        """(K, N) float64: what the channels of a turned axis carry of the old signals."""
        assert self.turn is not None
        return isometry(self.turn, self.old, self.size)

    @cached_property
    def copies(self) -> Tensor:
        """(S,) how many channels carry each signal."""
        return torch.bincount(self.source[self.source >= 0], minlength=self.signals)

    @cached_property
    def carries_old(self) -> Tensor:
        """(K,) whether each channel carries an old signal."""
        return (self.source >= 0) & (self.source < self.old)

    @cached_property
    def origins(self) -> Tensor:
        """(K,) the old channel whose signal each channel carries; the first where it is none."""
        return torch.where(self.carries_old, self.source, 0)

    @cached_property
    def strangers(self) -> Tensor:
        """The channels that carry no old signal."""
        return (~self.carries_old).nonzero().squeeze(1)

    @cached_property
    def shares(self) -> Tensor | None:
        """(K,) how many carry the old signal of each channel, 1 at strangers; None if all are 1."""
        copies = self.copies[self.source.clamp(min=0)]
        found = torch.where(self.carries_old, copies, 1)
        return found if bool((found > 1).any()) else None

    @cached_property
    def keeps_prefix(self) -> bool:
        """Whether the first N channels are the old ones in their old order."""
        n = self.old
        return self.size >= n and bool(
            (self.source[:n] == torch.arange(n)).all() and (self.factor[:n] == 1).all()
        )

    @cached_property
    def keeps_order(self) -> bool:
        """Whether the old channels still stand in their old order, one for each."""
        first = torch.full((self.signals,), self.size)
        carried = self.source >= 0
        first.scatter_reduce_(0, self.source[carried], carried.nonzero().squeeze(1), "amin")
        return bool((first[: self.old].diff() > 0).all())

    @cached_property
    def touched(self) -> Tensor:
        """Channels whose reader is not simply a copy: new ones, and old ones that got copies."""
        plain = self.carries_old & (self.factor == 1)
        plain &= self.copies[self.source.clamp(min=0)] == 1
        return (~plain).nonzero().squeeze(1)

    @cached_property
    def twins(self) -> bool:
        """Whether the channels are pairs of neighbours, one pair per signal: the common case."""
        pairs = torch.arange(self.signals).repeat_interleave(2)
        return (
            self.size == pairs.numel()
            and bool((self.source == pairs).all())
            and bool((self.factor == 1).all())
        )

    @cached_property
    def singles(self) -> Embedding:
        """One channel for each signal that a pair of twins carries."""
        return Embedding(self.source[::2], self.factor[::2], self.old, self.fresh)

    @cached_property
    def restricted(self) -> tuple[Tensor, Embedding]:
        """The old channels that have copies, and this embedding on the touched channels alone."""
        source = self.source[self.touched]
        is_old = (source >= 0) & (source < self.old)
        owners, compact = torch.unique(source[is_old], return_inverse=True)
        source = torch.where(source >= self.old, source - self.old + owners.numel(), source)
        source[is_old] = compact
        factor = self.factor[self.touched]
        return owners, Embedding(source, factor, owners.numel(), self.fresh)

    @cached_property
    def classes(self) -> list[tuple[Tensor, Tensor]]:
        """Per number r of copies: the signals (C,) that have r, and their channels (C, r)."""
        order = torch.argsort(self.source, stable=True)[int((self.source < 0).sum()) :]
        starts = torch.cumsum(self.copies, 0) - self.copies
        found = []
        for r in torch.unique(self.copies[self.copies > 0]).tolist():
            signals = (self.copies == r).nonzero().squeeze(1)
            found.append((signals, order[starts[signals][:, None] + torch.arange(r)]))
        return found

    @cached_property
    def is_partly_silent(self) -> bool:
        """Whether some channel carries nothing."""
        return bool((self.source < 0).any())

    @cached_property
    def runs(self) -> list[tuple[int, int, int]]:
        """Stretches of plain copies of consecutive old channels: (new, old, length)."""
        plain = torch.ones(self.size, dtype=torch.bool)
        plain[self.touched] = False
        at = plain.nonzero().squeeze(1)
        if not at.numel():
            return []
        source = self.source[at]
        breaks = ((at.diff() != 1) | (source.diff() != 1)).nonzero().squeeze(1) + 1
        starts = [0, *breaks.tolist(), at.numel()]
        return [(int(at[a]), int(source[a]), b - a) for a, b in itertools.pairwise(starts)]

    @cached_property
    def pair_runs(self) -> list[tuple[int, int, int]]:
        """Stretches of neighbouring pairs: (first channel, first fresh signal, number of pairs)."""
        firsts = self.touched[::2]
        breaks = (firsts.diff() != 2).nonzero().squeeze(1) + 1
        starts = [0, *breaks.tolist(), firsts.numel()]
        return [(int(firsts[a]), a, b - a) for a, b in itertools.pairwise(starts)]

    @cached_property
    def firsts(self) -> Tensor:
        """(K,) the first channel that carries each one's signal; itself where it carries none."""
        index = torch.arange(self.size)
        for _, channels in self.classes:
            index[channels] = channels[:, :1].expand_as(channels)
        return index


def identity(n: int) -> Embedding:
    """Nothing grows."""
    return Embedding(torch.arange(n), torch.ones(n, dtype=torch.float64), n, 0)


def monomial(source: Tensor, old: int, fresh: int, near: Tensor | None = None) -> Embedding:
    """An embedding of plain copies: every factor is 1."""
    return Embedding(source, torch.ones(source.numel(), dtype=torch.float64), old, fresh, near)


def embed(form: Form, embeddings: Mapping[str, Embedding]) -> Embedding:
    """The embedding of a whole axis, composed from those of its growing leaves."""
    if form.kind == "leaf":
        return embeddings[form.name] if form.name in embeddings else identity(form.size)
    parts = [embed(part, embeddings) for part in form.parts]
    result = parts[0]
    for part in parts[1:]:
        result = _pair(result, part) if form.kind == "product" else _append(result, part)
    return result


def _pair(outer: Embedding, inner: Embedding) -> Embedding:
    """The product axis: a channel is old only if both of its coordinates are."""
    a, b = outer.source[:, None], inner.source[None, :]
    grid = torch.where((a < 0) | (b < 0), -1, a * inner.signals + b).reshape(-1)
    s = torch.arange(outer.signals)[:, None], torch.arange(inner.signals)[None, :]
    is_old = ((s[0] < outer.old) & (s[1] < inner.old)).reshape(-1)
    n = outer.old * inner.old
    number = torch.where(is_old, torch.cumsum(is_old, 0) - 1, n - 1 + torch.cumsum(~is_old, 0))
    source = torch.where(grid < 0, -1, number[grid.clamp(min=0)])
    factor = (outer.factor[:, None] * inner.factor[None, :]).reshape(-1)
    near = None
    if outer.near is not None or inner.near is not None:
        near_a, near_b = _nearest(outer)[:, None], _nearest(inner)[None, :]
        near = (near_a * inner.old + near_b).reshape(-1)[~is_old]
    return Embedding(source, factor, n, int((~is_old).sum()), near)


def _append(left: Embedding, right: Embedding) -> Embedding:
    """The sum axis: one after the other; fresh signals are numbered after all old ones."""
    n = left.old + right.old
    first = torch.where(left.source >= left.old, left.source + right.old, left.source)
    second = torch.where(
        right.source >= right.old, right.source + n + left.fresh - right.old, right.source
    )
    second = torch.where(
        (right.source >= 0) & (right.source < right.old), second + left.old, second
    )
    near = None
    if left.near is not None or right.near is not None:
        near = torch.cat([_nearest(left)[left.old :], _nearest(right)[right.old :] + left.old])
    factor = torch.cat([left.factor, right.factor])
    return Embedding(torch.cat([first, second]), factor, n, left.fresh + right.fresh, near)


def _nearest(e: Embedding) -> Tensor:
    """(S,) for each signal an old channel: itself, what a fresh one starts near, or the first."""
    near = e.near if e.near is not None else torch.zeros(e.fresh, dtype=torch.int64)
    return torch.cat([torch.arange(e.old), near])


def signal_sums(columns: Tensor, e: Embedding) -> Tensor:
    """`V E`: (O, K, I) columns to (O, S, I) what the readers see of each signal."""
    if e.twins:
        return columns[:, 0::2] + columns[:, 1::2]
    sums = columns.new_zeros(columns.shape[0], e.signals, columns.shape[2])
    carried = e.source >= 0
    weighted = columns if bool((e.factor == 1).all()) else columns * e.factor[:, None].to(columns)
    if not bool(carried.all()):
        return sums.index_add_(1, e.source[carried], weighted[:, carried])
    return sums.index_add_(1, e.source, weighted)


def solve(free: Tensor, old: Tensor, e: Embedding, dtype: torch.dtype) -> Tensor:
    """The readers nearest to `free` that satisfy `V' E = [old, 0]`, in `dtype`.

    free: (O, K, I) float64, changed in place.   old: (O, N, I) float64.   Returns (O, K, I).
    The sums hold after the cast: the last channel of each signal takes up what rounding left.
    """
    cast = free.to(dtype)
    if not bool(_missing(cast, old, e).any()):
        return cast
    missing, signal = _missing(free, old, e), e.source.clamp(min=0)
    weight = e.factor * (e.source >= 0)
    squares = e.factor.new_zeros(e.signals).index_add_(0, signal, weight**2)
    free += missing[:, signal] * (weight / squares.clamp(min=1e-300)[signal])[:, None]
    cast = free.to(dtype)
    last = torch.cat([channels[:, -1] for _, channels in e.classes])
    missing = _missing(cast, old, e)[:, e.source[last]]
    repaired = cast[:, last].double() + missing / e.factor[last][:, None]
    cast[:, last] = repaired.to(dtype)
    return cast


def _missing(columns: Tensor, old: Tensor, e: Embedding) -> Tensor:
    """`[old, 0] - V' E`: (O, S, I). (A sum of two is zero in any dtype only if it is exactly.)"""
    sums = signal_sums(columns if e.twins else columns.double(), e)
    if not e.old:
        return -sums
    target = torch.cat([old, old.new_zeros(old.shape[0], e.fresh, old.shape[2])], dim=1)
    return target - sums
