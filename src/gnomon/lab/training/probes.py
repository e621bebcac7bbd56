"""What a run may look at besides its loss: snapshots of its weights, and how they are spread."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from gnomon.lab.errors import LabError


@dataclass(frozen=True)
class Histogram:
    """How the entries of a tensor are spread. edges: one more than counts."""

    name: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    zeros: int


def histogram(name: str, entries: Tensor, bins: int = 41) -> Histogram:
    """The entries of a tensor by size, and how many of them are exactly zero.

    Filters embedded by the identity have two peaks, decomposed ones a single bell (section 4.2 of
    "Network Morphism"). Write it with `Record.write(**asdict(...))`.
    """
    values = entries.detach().double().flatten().cpu()
    reach = float(values.abs().max()) or 1.0
    counts = torch.histc(values, bins, -reach, reach)
    edges = torch.linspace(-reach, reach, bins + 1)
    zeros = int((values == 0).sum())
    return Histogram(name, tuple(edges.tolist()), tuple(map(int, counts.tolist())), zeros)


def weight_histogram(model: nn.Module, name: str, bins: int = 41) -> Histogram:
    """The histogram of a parameter. Raises LabError for a name that the model does not have."""
    parameter = dict(model.named_parameters()).get(name)
    if parameter is None:
        raise LabError(f"There is no parameter '{name}' to look at.")
    return histogram(name, parameter, bins)


def snapshot(runs: Path, arm: str, moment: Literal["growth", "final"], name: str) -> Tensor:
    """A tensor as an arm with `snapshots=True` kept it, from the first seed that is finished.

    runs:   the folder of an experiment's runs, arm by arm and seed by seed.
    moment: right after the arm's first growth, or at its end.
    Raises LabError where there is no such run or tensor.
    """
    places = (runs / arm.replace("/", "-")).glob("seed-*")
    finished = [p for p in sorted(places, key=_number) if (p / "final.safetensors").exists()]
    if not finished:
        raise LabError(f"No run of '{arm}' in '{runs}' is finished and has kept its weights.")
    files = sorted(finished[0].glob(f"{moment}*.safetensors"), key=_number)
    if not files:
        raise LabError(f"The run in '{finished[0]}' has kept no weights of its growth.")
    try:
        with safe_open(files[0], framework="pt") as kept:
            tensor: Tensor = kept.get_tensor(name)
    except (OSError, SafetensorError) as error:
        raise LabError(f"'{name}' cannot be read from '{files[0]}': {error}.") from None
    return tensor


def _number(path: Path) -> int:
    """The number at the end of a name, so that 10 comes behind 9."""
    number = path.stem.rpartition("-")[2]
    return int(number) if number.isdigit() else 0
