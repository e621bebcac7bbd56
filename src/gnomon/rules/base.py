"""What a rule is: three small functions on one equation, and nothing about layers.

    x' = E [x; f]          new channels carry copies of old signals x and of fresh signals f
    V' E = [V, 0]          readers V' see what V saw, and nothing of f: the function is unchanged
    V' = Z + ([V, 0] - Z E) E+

    embed   chooses E        fresh   draws the writers' rows of f        free   draws Z

Legend for shapes: a tensor is (O, N, I) with the growing axis in the middle; N old channels,
K grown ones, F fresh signals, O everything before and I everything after.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

import torch
from torch import Tensor

from gnomon.draw import Draw
from gnomon.embedding import Embedding


@dataclass(frozen=True)
class Law:
    """What an operation on the tape demands of the embedding that passes through it.

    kind "uniform": the channels are averaged, so all of them must be copied equally often.
    kind "zero":    a zero signal does not come out as zero, or comes out dead.
    norm: what kind of norm averages them; "" for any other average.
    """

    kind: Literal["uniform", "zero"]
    reason: str
    where: str
    norm: Literal["", "layer", "rms"] = ""


@dataclass(frozen=True, kw_only=True, repr=False)
class Rule(ABC):
    """How new weights are filled.

    init:       "matched" draws new weights with the standard deviation of the existing ones;
                "he" with sqrt(2 / fan_in) of the grown tensor (He et al. 2015).
    statistics: running statistics of new channels, "measured" on the example inputs or "copied"
                as the mean of the old channels'.
    """

    init: Literal["matched", "he"] = "matched"
    statistics: Literal["measured", "copied"] = "measured"

    preserves: ClassVar[bool] = True
    source: ClassVar[str]

    def __post_init__(self) -> None:
        if self.init not in ("matched", "he"):
            raise ValueError(f"init must be 'matched' or 'he', not {self.init!r}")
        if self.statistics not in ("measured", "copied"):
            raise ValueError(f"statistics must be 'measured' or 'copied', not {self.statistics!r}")

    @property
    def evenly(self) -> bool:
        """Whether copies of one channel get equal shares of its gradient."""
        return False

    def __repr__(self) -> str:
        options = [
            f"{f.name}={value!r}"
            for f in fields(self)
            if (value := getattr(self, f.name)) != f.default
        ]
        return f"{type(self).__name__}({', '.join(options)})"

    @abstractmethod
    def embed(self, n: int, k: int, laws: frozenset[Law], draw: Draw) -> Embedding:
        """E for n old channels and k new ones; raises CannotPreserve where a law forbids it."""

    def fresh(self, rows: Tensor, e: Embedding, draw: Draw) -> Tensor:
        """Writers of the fresh signals: (O, F, I) float64, like the old rows (O, N, I)."""
        return draw.weights((rows.shape[0], e.fresh, rows.shape[2]))

    @abstractmethod
    def free(self, columns: Tensor, e: Embedding, draw: Draw) -> Tensor:
        """Z on the touched channels: (O, K, I) float64, for old readers (O, N, I) float64.

        Where all fresh signals are pairs of twins, only the first of each pair is asked for.
        """


def divided(columns: Tensor, e: Embedding, draw: Draw, *, uneven: bool) -> Tensor:
    """Divide each old reader column among the copies of its channel, exactly in every dtype.

    columns: (O, N, I). Returns (O, K, I), zero for fresh signals. Uneven: each entry goes whole to
    one of the copies, at random, so that copies which write alike read differently and part ways
    at the first step of SGD and of Adam (shares that differ by a factor do not, under Adam).
    Even: halves of halves, because V / 3 three times is not V in floating point. Of a vector, which
    holds one entry for each channel, copies that got nothing would stay equal: each gets a share of
    its own, such as V, V / 2 and -V / 2.
    """
    parts = columns.new_zeros(columns.shape[0], e.size, columns.shape[2])
    for signals, channels in e.classes:
        is_old = signals < e.old
        if not bool(is_old.any()):
            continue
        whole, r = columns[:, signals[is_old]], channels.shape[1]
        owner = draw.below(r, whole.shape) if uneven else None
        alone = torch.tensor(_different(r)) if columns.shape[0] * columns.shape[2] <= 2 else None
        for i, copy in enumerate(channels[is_old].T):
            share: Tensor | float = 0.5 ** min(i + 1, r - 1)
            if owner is not None:
                share = owner == i if alone is None else alone[(owner + i) % r].to(whole)
            parts[:, copy] = whole * share
    return parts


def _different(r: int) -> list[float]:
    """r different shares that add up to 1: 1, powers of 1/2 and their negatives, and 0."""
    shares = [1.0] if r % 2 else [1.0, 0.0]
    for i in range(1, r):
        shares += [0.5**i, -(0.5**i)]
    return shares[:r]


def doubled(columns: Tensor, e: Embedding, draw: Draw, *, uneven: bool) -> Tensor:
    """Readers of r copies of which each carries 1/r of its signal: their sum is r V, in any dtype.

    columns: (O, N, I). Returns (O, K, I), zero for fresh signals. Even: V each. Uneven: in each two
    copies an entry is 2 V in one, at random, and 0 in the other; an odd one keeps V.
    """
    parts = columns.new_zeros(columns.shape[0], e.size, columns.shape[2])
    for signals, channels in e.classes:
        is_old = signals < e.old
        whole = columns[:, signals[is_old]]
        copies = list(channels[is_old].T) if bool(is_old.any()) else []
        for one, other in zip(copies[0::2], copies[1::2], strict=False):
            mine = draw.below(2, whole.shape).to(whole) if uneven else 0.5
            parts[:, one], parts[:, other] = 2 * mine * whole, 2 * (1 - mine) * whole
        if len(copies) % 2:
            parts[:, copies[-1]] = whole
    return parts


def on_grid(values: Tensor) -> Tensor:
    """Round to a grid so coarse that sums of a few entries are exact in bf16, fp16 and fp32.

    Six bits below the largest entry: up to four such numbers add up exactly in eight bits.
    """
    top = values.abs().max()
    if not bool(top > 0):
        return values
    step = torch.exp2(torch.floor(torch.log2(top)) - 5)
    return torch.round(values / step) * step
