"""Compare the sizes of gradients before and after a growth, over several steps of each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

Sizes = tuple[Tensor | float, ...]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Gradient sizes of the last steps, and while a growth is being judged those before it.

    steps: of how many the mean is taken, on either side. least, most: bounds of the factor.
    before: None as long as no growth waits for its factor.
    """

    steps: int
    least: float
    most: float
    recent: Sizes = ()
    before: Sizes | None = None

    def seen(self, size: Tensor | float) -> tuple[Comparison, float]:
        """After one more step; and the factor, which is 1 until the last step that it needs."""
        recent = (*self.recent, size)[-self.steps :]
        if self.before is None or len(recent) < self.steps:
            return replace(self, recent=recent), 1.0
        return replace(self, recent=recent, before=None), self._factor(self.before, recent)

    def grown(self) -> tuple[Comparison, float]:
        """A growth happens now. A judgement that is still open is closed with what it has.

        With no step in between, two growths are judged as one.
        """
        if self.before is None:
            return replace(self, recent=(), before=self.recent), 1.0
        if not self.recent:
            return self, 1.0
        factor = self._factor(self.before, self.recent)
        return replace(self, recent=(), before=self.recent), factor

    @property
    def empty(self) -> bool:
        """Whether nothing has been seen yet."""
        return not self.recent and not self.before

    def _factor(self, before: Sizes, after: Sizes) -> float:
        old, new = _mean(before), _mean(after)
        if old is None or new is None or not (old or new):
            return 1.0
        return min(max(old / new if new else self.most, self.least), self.most)


def _mean(sizes: Sizes) -> float | None:
    """Of the finite ones."""
    finite = [s for s in map(float, sizes) if math.isfinite(s)]
    return sum(finite) / len(finite) if finite else None


def size_of(gradients: Iterable[Tensor | None], scale: float) -> Tensor | None:
    """The L2 norm of all gradients together; None if there are none."""
    dense: Sequence[Tensor] = [g for g in gradients if g is not None and not g.is_sparse]
    if not dense:
        return None
    return torch.nn.utils.get_total_norm(dense) / scale
