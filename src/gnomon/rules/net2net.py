"""Net2Net: new channels are copies of old ones (Chen et al.)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gnomon.draw import Draw
from gnomon.embedding import Embedding, monomial
from gnomon.errors import CannotPreserve
from gnomon.rules.base import Law, Rule, divided, doubled


@dataclass(frozen=True, kw_only=True, repr=False)
class Net2Net(Rule):
    """Each new channel copies an old one, and the readers' weights are divided among the copies.

        writers   W | W[g]          readers   shares of V that add up to V

    There is one map g per group, so copies stay equal through residual adds. Old channels are
    copied in random order, none twice before all have been copied once (the paper draws with
    replacement). `uneven` divides the readers entry by entry, so that copies part ways without
    noise; the paper's equal shares leave copies equal for ever.
    """

    uneven: bool = True

    source: ClassVar[str] = "Chen et al., Net2Net, section 2.2 (Net2WiderNet)"

    @property
    def evenly(self) -> bool:
        """Equal shares of the readers are equal shares of the gradient."""
        return not self.uneven

    def embed(self, n: int, k: int, laws: frozenset[Law], draw: Draw) -> Embedding:
        """Copies; where channels are averaged, all of them equally often."""
        averaged = next((law for law in laws if law.kind == "uniform"), None)
        if averaged is not None and k % n:
            raise CannotPreserve(
                f"{averaged.reason} in '{averaged.where}' averages the {n} channels, so each must "
                f"be copied equally often: grow to a multiple, such as by=2"
            )
        if averaged is not None:
            return monomial(torch.arange(n).repeat(1 + k // n), n, 0)
        rounds = [draw.permutation(n) for _ in range(-(-k // n))]
        return monomial(torch.cat([torch.arange(n), torch.cat(rounds)[:k]]), n, 0)

    def free(self, columns: Tensor, e: Embedding, draw: Draw) -> Tensor:
        """The shares themselves; of `r` V among r copies whose signals are `r` times smaller."""
        if bool((e.factor < 1).any()):
            return doubled(columns, e, draw, uneven=self.uneven)
        return divided(columns, e, draw, uneven=self.uneven)
