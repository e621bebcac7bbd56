"""All that a search is made from: the same blueprint makes the same search on another machine."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gnomon.evolution.budget import Budget
from gnomon.evolution.population.mutation import Space
from gnomon.evolution.population.optimizer import Maker
from gnomon.evolution.select import Selection
from gnomon.evolution.settings import Settings


@dataclass(frozen=True, eq=False)
class Blueprint:
    """The arguments of an `Evolution`, defaults filled in."""

    space: Space
    optimizer: Maker
    select: Selection
    settings: Settings
    budget: Budget
    seed: int
    device: torch.device | None
