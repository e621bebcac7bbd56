"""A hidden layer as three plain tensors, taken out of a network and put back wider."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gnomon.lab.table1.networks import NewLayers


@dataclass(frozen=True)
class Hidden:
    """One layer's channels.

    rows:     (N, I + 1) what writes the N channels: weights, then the bias.
    channels: (N, 4) what acts on each: BatchNorm's gain, shift, mean, variance; (N, 0) without.
    columns:  (O, N) what reads them.
    """

    rows: Tensor
    channels: Tensor
    columns: Tensor


def hidden(writer: nn.Linear, reader: nn.Linear, norm: nn.BatchNorm1d | None = None) -> Hidden:
    """The channels between two layers."""
    rows = torch.cat([writer.weight, writer.bias[:, None]], 1).detach()
    channels = torch.stack(_parts(norm), 1) if norm else rows.new_zeros(len(rows), 0)
    return Hidden(rows, channels.detach(), reader.weight.detach())


def writer_of(wider: Hidden) -> nn.Linear:
    """The layer with these rows."""
    return linear(wider.rows[:, :-1], wider.rows[:, -1])


def reader_of(wider: Hidden, old: nn.Linear) -> nn.Linear:
    """The layer with these columns, and the bias that it had."""
    return linear(wider.columns, old.bias)


def norm_of(channels: Tensor) -> nn.BatchNorm1d:
    """BatchNorm with these gains, shifts, means and variances: (N, 4)."""
    norm = nn.BatchNorm1d(len(channels)).double().eval()
    with torch.no_grad():
        for tensor, value in zip(_parts(norm), channels.T, strict=True):
            tensor.copy_(value)
    return norm


def undoing(seen: Tensor) -> nn.BatchNorm1d:
    """BatchNorm whose gain and shift undo the statistics of one batch (N, C)."""
    mean, var = seen.mean(0), seen.var(0, correction=0)
    return norm_of(torch.stack([(var + 1e-5).sqrt(), mean, mean, var], 1))


def _parts(norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    assert norm.running_mean is not None and norm.running_var is not None
    return norm.weight, norm.bias, norm.running_mean, norm.running_var


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """A layer with copies of these tensors."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight, layer.bias = (nn.Parameter(t.detach().clone()) for t in (weight, bias))
    return layer


def layer(rows: Tensor, new: NewLayers) -> list[nn.Module]:
    """Linear, BatchNorm as PyTorch starts it if asked, activation. rows: (N, I + 1)."""
    norm = [nn.BatchNorm1d(len(rows)).double().eval()] if new.norm else []
    return [linear(rows[:, :-1], rows[:, -1]), *norm, new.activation().double().eval()]


def uniform(shape: tuple[int, int], like: Tensor, draw: torch.Generator) -> Tensor:
    """Uniform numbers as spread as existing ones: U(-s sqrt(3), s sqrt(3)) has deviation s."""
    s = like.detach().std(correction=0)
    return (2 * torch.rand(shape, generator=draw, dtype=like.dtype) - 1) * 3**0.5 * s
