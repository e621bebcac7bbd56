"""At which scale two random factors balance, and how they are brought to one deviation.

Each entry of G~ is a sum of L prod(K1) prod(K2) / prod(K1 + K2 - 1) products on average. Drawn at

    s^2 = std(G~) sqrt( prod(K1 + K2 - 1) / (L prod(K1) prod(K2)) )

the products already have the size of G~, and solving changes the draws little. Much smaller draws
make the solved factor large (7 to 13 times the other's deviation at 0.3 s), larger ones only add
noise that cancels (2.7 times the hidden signal at 3 s).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gnomon.draw import Draw


def balanced_std(weight: Tensor, hidden: int, first: Sequence[int], second: Sequence[int]) -> float:
    """The deviation s at which to draw both factors of `weight` (O, I, *K).

    That of a layer of its own, 1 / sqrt(fan-in), if the weight is zero.
    """
    extent = math.prod(a + b - 1 for a, b in zip(first, second, strict=True))
    whole = float(weight.norm()) / math.sqrt(weight.shape[0] * weight.shape[1] * extent)
    if whole == 0:
        return 1 / math.sqrt(weight[0].numel())
    pairs = hidden * math.prod(first) * math.prod(second)
    return math.sqrt(whole * math.sqrt(extent / pairs))


def spread(weight: Tensor) -> float:
    """The root mean square of the entries that are not zero; zero if there are none."""
    kept = int(weight.count_nonzero())
    return float(weight.norm()) / math.sqrt(kept) if kept else 0.0


def equalised(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Both factors with one deviation over their non-zero entries, and the same product.

    The hidden signal is scaled with `first`: exact where it is linear in between, or homogeneous.
    """
    one, two = spread(first), spread(second)
    if one == 0 or two == 0:
        return first, second
    t = math.sqrt(two / one)
    return first * t, second / t


def drawn(draw: Draw, shape: Sequence[int], std: float) -> Tensor:
    """Random weights of this deviation from a stream of any other. float64."""
    return draw.weights(shape).mul_(std / draw.std)


def orthogonal(draw: Draw, rows: int, columns: int, std: float) -> Tensor:
    """(rows, columns) random with orthogonal rows of one length, entries of this deviation.

    rows <= columns. A square matrix of independent entries would be ill-conditioned, and what is
    solved for it five times as large.
    """
    q, upper = torch.linalg.qr(draw.weights((columns, rows)))
    signs = torch.where(upper.diagonal() < 0, -1.0, 1.0).double()
    scaled: Tensor = (q * signs).T.contiguous() * (std * math.sqrt(columns))
    return scaled
