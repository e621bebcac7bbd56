"""The linear equations of a split, as indices: which tap of F1 meets which tap of F2 where.

One dimension has rows, and triples (row, v, u) that say "row adds F2[v] F1[u]". Of several, rows
pair with rows, taps with taps, and triples with triples.

    row w     = 0 .. K1 + K2 - 2     sum over u + v = w of F2[v] F1[u] = G~[w]
    row later                        what zero padding between the layers cuts off adds up to zero
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gnomon.decompose.compose import indices
from gnomon.errors import CannotPreserve

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Dimension:
    """The equations of one dimension: `interior` rows of G~, then those of the borders."""

    interior: int
    rows: int
    triples: tuple[Triple, ...]

    @property
    def mirrored(self) -> Dimension:
        """The two layers in each other's place."""
        return Dimension(self.interior, self.rows, tuple((e, u, v) for e, v, u in self.triples))


def dimension(first: int, second: int) -> Dimension:
    """The equations on an endless line, for kernels of so many taps."""
    size = first + second - 1
    triples = tuple((u + v, v, u) for u in range(first) for v in range(second))
    return Dimension(size, size, triples)


def bordered_dimension(
    first: int,
    second: int,
    *,
    padding: tuple[tuple[int, int], tuple[int, int]],
    dilation: int,
    held: range,
) -> Dimension:
    """The equations on every line with two ends, whatever its length and the stride of `second`.

    padding: of the first and of the second layer, (before, after). held: rows w in which G~ may
    differ from zero. The products that make up row w are ordered by v; near an end the first c of
    them (the last c, at the other end) fall outside the hidden map and are lost. They must add up
    to zero by themselves, where they read the input. A stride skips some of these conditions.
    Raises CannotPreserve where the lost parts at both ends make up a whole row that is held.
    """
    plain = dimension(first, second)
    (before1, after1), (before2, after2) = padding
    left = _cuts(first, second, before1, before2, dilation)
    right = _cuts(first, second, after1, after2, dilation)
    extra: list[list[tuple[int, int]]] = []
    for w in range(plain.rows):
        products = sorted((v, u) for e, v, u in plain.triples if e == w)
        heads = left.get(w, set())
        tails = {len(products) - c for c in right.get(plain.rows - 1 - w, set())}
        if w in held and (heads & tails or len(products) in heads or 0 in tails):
            raise CannotPreserve(
                f"kernels of {first} and {second} taps with padding {padding[0]} and {padding[1]} "
                f"cannot keep the borders: all that makes up tap {w} is lost there. "
                "Put more of the padding in front of the first layer"
            )
        lost = [products[:c] for c in sorted(heads - {len(products)})]
        lost += [products[c:] for c in sorted(tails - heads - {0})]
        extra += lost
    added = [(plain.rows + i, v, u) for i, row in enumerate(extra) for v, u in row]
    return Dimension(plain.rows, plain.rows + len(extra), plain.triples + tuple(added))


def _cuts(
    first: int, second: int, before1: int, before2: int, dilation: int
) -> dict[int, set[int]]:
    """Per row w, after how many of its products the start of a line cuts, where it reads input."""
    found: dict[int, set[int]] = {}
    for q in range(before2):
        for w in range(first + second - 1):
            if q - before1 - before2 + dilation * w < 0:
                continue
            taps = range(max(0, w - first + 1), min(second - 1, w) + 1)
            lost = sum(q - before2 + dilation * v < 0 for v in taps)
            if lost:
                found.setdefault(w, set()).add(lost)
    return found


@dataclass(frozen=True, eq=False)
class System:
    """`M X = T` with M made of the given factor's taps, never built.

    shape: rows per dimension. pairs: for each tap u of the unknown, which rows (n,) add the
    product with which tap (n,) of the given factor.
    """

    shape: tuple[int, ...]
    interior: tuple[int, ...]
    pairs: tuple[tuple[Tensor, Tensor], ...]

    @property
    def rows(self) -> int:
        """Equations for each pair of an output and an input channel."""
        return math.prod(self.shape)


def system(dimensions: Sequence[Dimension], unknown: Sequence[int], given: Sequence[int]) -> System:
    """All of them together, for kernels of `unknown` and `given` taps."""
    shape = tuple(one.rows for one in dimensions)
    pairs = []
    for u in indices(unknown):
        choices = [
            [(e, v) for e, v, at in one.triples if at == here]
            for one, here in zip(dimensions, u, strict=True)
        ]
        rows, taps = [], []
        for chosen in indices([len(one) for one in choices]):
            both = [one[i] for one, i in zip(choices, chosen, strict=True)]
            rows.append(_flat([e for e, _ in both], shape))
            taps.append(_flat([v for _, v in both], given))
        pairs.append((torch.tensor(rows), torch.tensor(taps)))
    return System(shape, tuple(one.interior for one in dimensions), tuple(pairs))


def _flat(index: Sequence[int], sizes: Sequence[int]) -> int:
    """The position of an index in row-major order."""
    position = 0
    for at, size in zip(index, sizes, strict=True):
        position = position * size + at
    return position
