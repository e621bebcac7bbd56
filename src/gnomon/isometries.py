"""Matrices that make a stream wider and that no norm notices: isometries which keep the mean.

    T = 1 1' / n + sqrt(K / n) B A'       T' T = (K / n) I       T 1 = 1       T+ = (n / K) T'

A (n, n-1) and B (K, n-1) have orthonormal columns, all of them orthogonal to 1. So T x has the mean
of x, its mean of squares and its variance, and

    LayerNorm(T x) = T LayerNorm(x)         RMSNorm(T x) = T RMSNorm(x)         with the same eps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def isometry(key: int, n: int, size: int) -> Tensor:
    """T of shape (size, n), float64, on the CPU; the same key gives the same matrix.

    n: old channels, size: grown ones, no fewer. B is drawn evenly from all that there are.
    """
    generator = torch.Generator().manual_seed(key)
    drawn = torch.empty(size, n - 1, dtype=torch.float64)
    drawn.normal_(generator=generator)
    inner = _beside_ones(torch.eye(n, n - 1, dtype=torch.float64))
    turn = _beside_ones(drawn) @ inner.T
    return turn.mul_(math.sqrt(size / n)).add_(1 / n)


def _beside_ones(columns: Tensor) -> Tensor:
    """(r, c) orthonormal columns, orthogonal to 1 and spanning with it what these columns do."""
    ones = columns.new_ones(columns.shape[0], 1)
    q, r = torch.linalg.qr(torch.cat([ones, columns], 1))
    evenly: Tensor = q * r.diagonal().sign()  # without the signs it would not be evenly drawn
    return evenly[:, 1:]
