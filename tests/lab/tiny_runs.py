"""A network and an experiment that train in a moment, for tests and the processes they kill.

images 4x4 -> stem: convolution, BatchNorm, ReLU, dropout -> body: the same -> mean -> head
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gnomon.lab.data.sources import Images
from gnomon.lab.data.tasks import Task
from gnomon.lab.experiment import Arm
from gnomon.lab.running.record import metrics
from gnomon.lab.running.runs import CHECKPOINT, Bench
from gnomon.lab.training.machine import Machine
from gnomon.lab.training.recipe import Recipe
from gnomon.morphs import Deepen, Widen
from gnomon.rules import R2R, Net2Net
from gnomon.schedule import At, Schedule

CPU = Machine("cpu")
RECIPE = Recipe(epochs=4, batch=16, lr=1e-2, augment=True)


def layer(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.Dropout(0.1),
    )


class DropoutNet(nn.Module):
    """What a resumed run can get wrong: running statistics, and a generator that eval spares."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.stem, self.body = layer(1, width), layer(width, width)
        self.head = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.stem(x)).mean((2, 3)))


def dropout_net(task: Task) -> nn.Module:
    return DropoutNet()


def wide_dropout_net(task: Task) -> nn.Module:
    return DropoutNet(8)


def two_growths(rule: R2R | Net2Net | None = None) -> Schedule:
    """Wider after the first epoch, deeper after the second."""
    rule = rule or R2R()
    return At(Widen("*", by=1.5, rule=rule), epoch=1) + At(Deepen("stem.2", rule=rule), epoch=2)


def bench(folder: Path, arms: Mapping[str, Arm] | None = None, **changes: Any) -> Bench:
    """A bench of these arms, or of one arm `run` that grows twice; changes are the recipe's."""
    grown = Arm(replace(RECIPE, **changes), dropout_net, schedule=two_growths())
    return Bench(arms or {"run": grown}, Images("brightness"), folder, CPU)


def lines(place: Path) -> list[dict[str, Any]]:
    """The metrics of a run without what no two runs share."""
    return [{k: v for k, v in line.items() if k != "seconds"} for line in metrics(place)]


def result(place: Path) -> dict[str, Any]:
    content = json.loads((place / "result.json").read_text())
    del content["seconds"]
    return content


def state(place: Path) -> dict[str, Any]:
    """The checkpoint of a run, without what no two runs share."""
    found = torch.load(place / CHECKPOINT, weights_only=True)["training"]
    del found["spent"]["seconds"], found["spent"]["start"]["seconds"]
    return found


def alike(one: object, other: object) -> bool:
    """Whether two checkpoints are the same to the bit."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(alike(v, other[k]) for k, v in one.items())
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    return bool(one == other)
