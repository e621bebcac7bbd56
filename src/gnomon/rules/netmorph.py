"""NetMorph: new channels that nobody reads yet, or that carry nothing yet (Wei et al.)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from gnomon.draw import Draw
from gnomon.embedding import Embedding, monomial
from gnomon.errors import CannotPreserve
from gnomon.rules.base import Law, Rule
from gnomon.rules.r2r import refuse_uniform


@dataclass(frozen=True, kw_only=True, repr=False)
class NetMorph(Rule):
    """One fresh signal per new channel, with zeros on one side.

        zero="readers"    writers   W | U          readers   V | 0
        zero="writers"    writers   W | 0          readers   V | b

    Zero readers are exact everywhere but under a norm over the channels. Zero writers need an
    activation with f(0) = 0 and a slope there: behind a ReLU they would be dead for ever, so that
    is refused. A stream under RMSNorm can grow by any number of zero writers: gains and eps are
    rescaled. Under LayerNorm the new channels are the mean of the old ones, of which it leaves
    zeros. `permute` shuffles the channels afterwards, as the paper does.
    """

    zero: Literal["readers", "writers"] = "readers"
    permute: bool = False

    source: ClassVar[str] = "Wei et al., Network Morphism, section 3.4.1"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.zero not in ("readers", "writers"):
            raise ValueError(f"zero must be 'readers' or 'writers', not {self.zero!r}")

    def embed(self, n: int, k: int, laws: frozenset[Law], draw: Draw) -> Embedding:
        """Fresh channels behind the old ones, or channels of zeros."""
        normed = self._is_normed(laws)
        if not normed:
            refuse_uniform(self, laws)
        dead = next((law for law in laws if law.kind == "zero"), None)
        if self.zero == "writers" and dead is not None and not normed:
            raise CannotPreserve(
                f"zero writers do not live through {dead.reason} in '{dead.where}'; use "
                f"NetMorph(zero='readers')"
            )
        fresh = k if self.zero == "readers" else 0
        new = n + torch.arange(k) if fresh else torch.full((k,), -1)
        source = torch.cat([torch.arange(n), new])
        return monomial(source[draw.permutation(n + k)] if self.permute else source, n, fresh)

    def _is_normed(self, laws: frozenset[Law]) -> bool:
        """Whether zero writers may pass: what they meet before and after is found on the tape."""
        averages = [law for law in laws if law.kind == "uniform"]
        if self.zero == "readers" or not averages:
            return False
        return all(law.norm for law in averages)

    def free(self, columns: Tensor, e: Embedding, draw: Draw) -> Tensor:
        """Zeros for fresh signals; anything for channels that carry nothing."""
        z = columns.new_zeros(columns.shape[0], e.size, columns.shape[2])
        silent = (e.source < 0).nonzero().squeeze(1)
        if silent.numel():
            z[:, silent] = draw.weights((columns.shape[0], silent.numel(), columns.shape[2]))
        return z
