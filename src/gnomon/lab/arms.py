"""The arms of the demo: networks trained to the end, recorded, watched, then tested."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Protocol

from torch import nn

from gnomon.grower import Grower
from gnomon.lab.data.tasks import ImageTask
from gnomon.lab.running.record import Record
from gnomon.lab.training.machine import Machine
from gnomon.lab.training.recipe import Recipe
from gnomon.lab.training.train import Grown, Measured, Training, accuracy
from gnomon.schedule import Timeline


@dataclass(frozen=True)
class Outcome:
    """A finished arm: its network, its measurements in order, its accuracy on the test split."""

    name: str
    model: nn.Module
    points: Sequence[Measured]
    growths: Sequence[Grown]
    test_accuracy: float
    grower: Grower | None = None

    def within(self, budget: int) -> Measured:
        """Return the last measurement at or below so many FLOPs: not the best one."""
        return [point for point in self.points if point.flops <= budget][-1]


class Observer(Protocol):
    """Who wants to see the demo run."""

    def started(self, arm: str, parameters: int, epochs: int) -> None:
        """An arm begins."""

    def measured(self, arm: str, point: Measured) -> None:
        """An epoch is over."""

    def grew(self, arm: str, plan: str, receipt: str) -> None:
        """A growth was proved."""


@dataclass(frozen=True)
class Stage:
    """What all arms share: the data, the recipe, the machine, the record and the observer."""

    task: ImageTask
    recipe: Recipe
    machine: Machine
    record: Record
    observer: Observer

    def arm(self, name: str, model: nn.Module, timeline: Timeline | None = None) -> Outcome:
        """Train one arm to the end; only then look at the test split."""
        parameters = sum(parameter.numel() for parameter in model.parameters())
        self.observer.started(name, parameters, self.recipe.epochs)
        training = Training(model, self.task, self.recipe, machine=self.machine, timeline=timeline)
        points: list[Measured] = []
        grown: list[Grown] = []
        for round in training.rounds():
            points.append(round.point)
            grown += round.growths
            self.record.write(arm=name, event="epoch", **asdict(round.point))
            self.observer.measured(name, round.point)
            self._tell(name, round.growths)
        test = accuracy(model, self.task, self.task.test)
        self.record.write(arm=name, event="test", accuracy=test)
        grower = training.grower() if timeline is not None else None
        return Outcome(name, model, points, grown, test, grower)

    def _tell(self, name: str, growths: Sequence[Grown]) -> None:
        shown = [(str(g.receipt.plan), str(g.receipt)) for g in growths if g.receipt is not None]
        for grown, (plan, receipt) in zip(growths, shown, strict=True):
            counts = asdict(replace(grown, receipt=None))
            self.record.write(arm=name, event="growth", **counts | {"receipt": receipt})
            self.observer.grew(name, plan, receipt)
        if shown:
            self.record.text("receipt.txt", "\n\n".join(f"{p}\n\n{r}" for p, r in shown) + "\n")
