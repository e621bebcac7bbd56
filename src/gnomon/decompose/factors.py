"""Two layers that together compute what one did: the result and its paddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gnomon.decompose.compose import Geometry, Sides, compose, embedded, second_bias
from gnomon.errors import CannotPreserve, Unsupported


@dataclass(frozen=True, eq=False)
class Factors:
    """Two layers for one, in float64; the caller casts.

    first:       (L, I / groups, *K1), second: (O, L / groups, *K2).
    residual:    |F2 * F1 - G~| / |G~| (Frobenius), as solved.
    off, rest:   taps of the composed kernel before and after those of G, per dimension.
    first_bias:  (L,) or None; second_bias: (O,) or None.
    """

    first: Tensor
    second: Tensor
    residual: float
    off: tuple[int, ...]
    rest: tuple[int, ...]
    groups: int = 1
    first_bias: Tensor | None = None
    second_bias: Tensor | None = None

    @property
    def hidden(self) -> int:
        """Channels between the two."""
        return self.first.shape[0]

    def biased(self, bias: Tensor | None, first_bias: Tensor | None = None) -> Factors:
        """With the bias (O,) of the layer that was split, and a free one (L,) in between.

        Give the first layer a bias only where no used tap of the second meets padding.
        """
        if first_bias is None:
            return replace(self, second_bias=None if bias is None else bias.double())
        whole = self.second.new_zeros(self.second.shape[0]) if bias is None else bias
        behind = second_bias(whole, self.second, first_bias, self.groups)
        return replace(self, first_bias=first_bias.double(), second_bias=behind)

    def paddings(
        self, outer: Sides, dilation: Sequence[int] = (), second: Sides = ()
    ) -> tuple[Sides, Sides]:
        """Zero padding (before, after) of both layers, for a layer padded by `outer`.

        second: what the second layer is to be padded by; nothing by default, which is exact at
        the borders whatever the factors, with a hidden map as much larger. See `centred`.
        Raises CannotPreserve where the first layer would have to crop.
        """
        second = second or ((0, 0),) * len(outer)
        steps = tuple(dilation) or (1,) * len(outer)
        first = tuple(
            (p + d * off - q, p_end + d * rest - q_end)
            for (p, p_end), d, off, rest, (q, q_end) in zip(
                outer, steps, self.off, self.rest, second, strict=True
            )
        )
        if any(min(sides) < 0 for sides in first):
            raise CannotPreserve(
                f"padding {second} of the second layer is more than the two together may have: "
                f"the first would need {first}. Give the second layer less"
            )
        return first, second


def centred(kernel: Sequence[int], dilation: Sequence[int] = ()) -> Sides:
    """The padding with which a layer of these taps keeps the size of its map."""
    steps = tuple(dilation) or (1,) * len(kernel)
    return tuple(
        (d * ((k - 1) // 2), d * (k - 1 - (k - 1) // 2)) for k, d in zip(kernel, steps, strict=True)
    )


def mismatch(
    weight: Tensor, first: Tensor, second: Tensor, off: Sequence[int], groups: int = 1
) -> float:
    """|F2 * F1 - G~| / |G~| by composing anew, Frobenius; absolute for a weight of zeros."""
    grouped = Geometry(groups=groups)
    product, _ = compose(first, second, grouped, grouped)
    whole = embedded(weight.double(), product.shape[2:], off)
    return float((product - whole).norm()) / (float(whole.norm()) or 1.0)


def middle(kernel: Sequence[int], first: Sequence[int], second: Sequence[int]) -> tuple[int, ...]:
    """Where G lies in the composed kernel unless told otherwise: at its centre, or just before."""
    return tuple((a + b - 1 - k) // 2 for k, a, b in zip(kernel, first, second, strict=True))


def checked(weight: Tensor) -> Tensor:
    """The weight in float64; raises Unsupported if it is not finite."""
    if not bool(torch.isfinite(weight).all()):
        raise Unsupported(
            "a weight with NaN or infinite entries cannot be decomposed. Repair the weight first"
        )
    return weight.detach().to("cpu", torch.float64)
