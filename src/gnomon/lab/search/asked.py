"""What is searched for, as plain data: the data, the space, the numbers, the budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from typing import Any

import torch

from gnomon.evolution import (
    Best,
    Budget,
    CoEvolution,
    Evolution,
    Here,
    Islands,
    Pareto,
    Pool,
    Selection,
    Settings,
    Tournament,
)
from gnomon.evolution.chance import number
from gnomon.lab.data.tasks import ImageTask
from gnomon.lab.errors import LabError
from gnomon.lab.search.spaces import SPACES, space_of
from gnomon.lab.training.machine import Machine

SELECTIONS: Mapping[str, Callable[[], Selection]] = {
    "best": Best,
    "coevolution": CoEvolution,
    "tournament": Tournament,
    "pareto": Pareto,
}
FREE = ("device", "settings.rounds", "budget")  # may change while a search goes on


@dataclass(frozen=True)
class Asked:
    """A search, but for its folder. The numbers are those of the paper.

    data:  a name or a folder, as for `tasks.load`. space: "stages" or "any".
    model: FILE.py:FUNCTION for the space "any": called with the `Task`, it gives the base network.
    islands, exchange: how many populations, and after how many rounds they exchange their best.
    batch, lr, weight_decay: of Adam, which trains members and the top of the ensemble.
    top_steps: of that top.

    Raises ValueError for numbers that make no sense.
    Source: Painter, Deep Neuroevolution, table 2 and C.
    """

    data: str = "digits"
    space: str = "stages"
    model: str | None = None
    select: str = "best"
    settings: Settings = field(default_factory=Settings)
    budget: Budget = field(default_factory=Budget)
    batch: int = 32
    lr: float = 3e-3
    weight_decay: float = 1e-6
    top_steps: int = 5000
    islands: int = 1
    exchange: int = 5
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        for name, known in (("space", SPACES), ("select", tuple(SELECTIONS))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r} is not one of {', '.join(known)}")
        if self.model is not None and self.space != "any":
            raise ValueError(f"a model is searched around in the space 'any', not '{self.space}'")
        if self.batch < 2:
            raise ValueError(f"batch={self.batch} must be 2 or more: BatchNorm compares examples")
        for name in ("islands", "exchange"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be 1 or more")
        if self.islands > 1 and self.settings.size < 2:
            raise ValueError("islands of a single member cannot exchange it: size must be above 1")
        if self.top_steps < 0:
            raise ValueError(f"top_steps={self.top_steps} must be 0 or more")
        if not (0 < self.lr < float("inf")) or not (0 <= self.weight_decay < float("inf")):
            raise ValueError(f"lr={self.lr} and weight_decay={self.weight_decay} must not be so")

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Asked:
        """What `to_json` gave. Raises LabError."""
        try:
            plain = dict(data)
            settings, budget = Settings(**plain.pop("settings")), Budget(**plain.pop("budget"))
            return cls(settings=settings, budget=budget, **plain)
        except (KeyError, TypeError, ValueError) as error:
            raise LabError(f"The search's config cannot be read: {error}.") from None

    def differences(self, other: Asked) -> list[str]:
        """What another search has otherwise, but for what may change while a search goes on."""
        here, there = _flat(self.to_json()), _flat(other.to_json())
        free = [name for name in here if name.startswith(FREE)]
        return sorted(name for name in here if name not in free and here[name] != there[name])

    def searched(self, task: ImageTask, pool: Pool | None = None) -> Evolution | Islands:
        """The search at its start, on a pool's device. Raises GrowthError or LabError."""
        if self.islands == 1:
            return self.evolution(task, pool)
        budget = shared_among(self.budget, self.islands)
        alone = replace(self, islands=1, budget=budget)
        seeds = [number(self.seed, "island", i) for i in range(1, self.islands + 1)]
        made = [replace(alone, seed=seed).evolution(task, pool) for seed in seeds]
        return Islands(made, every=self.exchange)

    def evolution(self, task: ImageTask, pool: Pool | None = None) -> Evolution:
        """A population at its start. Raises GrowthError or LabError if none can be searched."""
        if self.batch > len(task.train):
            raise LabError(
                f"A batch of {self.batch} cannot be drawn: the data '{task.name}' have "
                f"{len(task.train)} training images. Use a smaller --batch."
            )
        device = (pool or Here()).device(Machine(self.device).fabric().device)
        return Evolution(
            space_of(self.space, self.model, task),
            self.maker,
            select=SELECTIONS[self.select](),
            settings=self.settings,
            budget=self.budget,
            seed=self.seed,
            device=device,
        )

    @property
    def maker(self) -> partial[torch.optim.Adam]:
        """Makes the optimizer."""
        return partial(torch.optim.Adam, lr=self.lr, weight_decay=self.weight_decay)

    def changed(self, **values: Any) -> Asked:
        """With other values, those of settings and budget by their own names; None changes nothing.

        Raises ValueError.
        """
        given = {name: value for name, value in values.items() if value is not None}
        parts = {}
        for name in ("settings", "budget"):
            part = getattr(self, name)
            own = {f.name for f in fields(part)} & given.keys()
            parts[name] = replace(part, **{f: given.pop(f) for f in sorted(own)})
        return replace(self, **parts, **given)


def shared_among(budget: Budget, islands: int) -> Budget:
    """An island's part of what all of them may take together; limits of one network stay."""

    def part(value: int | None) -> int | None:
        return None if value is None else max(1, value // islands)

    seconds = None if budget.seconds is None else budget.seconds / islands
    return replace(
        budget, memory=part(budget.memory), training_flops=part(budget.training_flops),
        seconds=seconds,
    )  # fmt: skip


def usual(data: str) -> Asked:
    """What fits a data set: the paper's numbers, fewer steps and members for the few digits."""
    if data == "digits":
        few = Settings(first_steps=300, steps=300, keep=3, size=8, rounds=8)
        return Asked(data, settings=few, top_steps=1000)
    return Asked(data)


def _flat(data: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{before}{name}.")
        else:
            found[before + name] = value
    return found
