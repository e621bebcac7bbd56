"""What a run may look at besides its loss, as plain data for its record."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from gnomon.lab.errors import LabError


@dataclass(frozen=True)
class Histogram:
    """How the entries of a tensor are spread. edges: one more than counts."""

    name: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    zeros: int


def weight_histogram(model: nn.Module, name: str, bins: int = 41) -> Histogram:
    """The entries of a parameter by size, and how many of them are exactly zero.

    Filters embedded by the identity have two peaks, decomposed ones a single bell (section 4.2 of
    "Network Morphism"). Write it with `Record.write(**asdict(...))`. Raises LabError for a name
    that the model does not have.
    """
    parameter = dict(model.named_parameters()).get(name)
    if parameter is None:
        raise LabError(f"There is no parameter '{name}' to look at.")
    values = parameter.detach().double().flatten().cpu()
    reach = float(values.abs().max()) or 1.0
    counts = torch.histc(values, bins, -reach, reach)
    edges = torch.linspace(-reach, reach, bins + 1)
    zeros = int((values == 0).sum())
    return Histogram(name, tuple(edges.tolist()), tuple(map(int, counts.tolist())), zeros)
