"""What can be known before training starts: the data are there, the models grow as scheduled."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from gnomon.errors import GrowthError
from gnomon.grower import Grower, Morph
from gnomon.lab.data.tasks import Task
from gnomon.lab.errors import LabError
from gnomon.lab.experiment import Arm, Network, blocks_of, root
from gnomon.lab.running.orders import Order
from gnomon.lab.training.compute import step_flops
from gnomon.lab.training.starts import seeded
from gnomon.schedule import At, Memory, Moment, OnPlateau, Schedule, Timeline, Together
from gnomon.simulation import Simulation, simulate

METRICS = ("accuracy", "loss")  # what a training measures after each epoch
EXAMPLES = 4  # images to analyse a network with


@dataclass(frozen=True)
class Forecast:
    """How an arm will go: its epochs, where a budget of FLOPs ends it sooner an estimate.

    cost:  FLOPs of a step of a few images at its end; spent: the same, summed over epochs, on its
           meter then. Only their ratios mean something.
    used:  which share of its budget of FLOPs, if it has one, is spent at its end.
    """

    epochs: int
    cost: float
    spent: float
    used: float | None = None

    @property
    def wasteful(self) -> bool:
        """Whether its epochs end it long before its budget does: most likely a mistake."""
        return self.used is not None and self.used < 0.9


def check(order: Order, arms: Mapping[str, Arm], seeds: Sequence[int]) -> dict[str, Forecast]:
    """Make the first network of every arm, and grow a weightless copy as its schedule says.

    Raises LabError where an arm cannot be trained as declared, or the data are missing.
    """
    try:
        order.machine.fabric()
    except (ValueError, RuntimeError) as error:
        why = f"The precision '{order.machine.precision}' cannot be used: {error}"
        raise LabError(why) from error
    look = Look(order.arms, order.task(seeds[0]))
    for name in arms:
        try:
            with seeded(seeds[0]):
                look.forecasts[name] = look.forecast(name)
        except (GrowthError, LabError) as error:
            raise LabError(f"The arm '{name}' cannot be trained: {error}") from error
        except Exception as error:  # the experiment's own code: a network it makes, a budget
            raise LabError(
                f"The arm '{name}' cannot be made: {type(error).__name__}: {error}"
            ) from error
    return look.forecasts


@dataclass
class Look:
    """What is known of some arms so far; each must come after the one it starts from."""

    arms: Mapping[str, Arm]
    task: Task
    forecasts: dict[str, Forecast] = field(default_factory=dict)
    simulated: dict[object, Simulation] = field(default_factory=dict)

    def forecast(self, name: str) -> Forecast:
        """Raises LabError and GrowthError for an arm that cannot be."""
        arm = self.arms[name]
        before = self.forecasts[arm.start.arm] if arm.start is not None else None
        spent = before.spent if before and arm.start and arm.start.carry else 0.0
        limit = math.inf
        if arm.budget is not None:
            limit = arm.budget.epochs * _cost(arm.budget.network, self.task)
        first = before.cost if before else _cost(root(self.arms, name), self.task)
        most = arm.recipe.epochs
        if math.isfinite(limit):  # a network that grows gets there sooner
            most = min(most, max(0, math.ceil((limit - spent) / first)))
        costs = self._costs(name, most, first)
        epochs = 0
        while epochs < most and spent < limit:
            spent += costs[epochs]
            epochs += 1
        used = spent / limit if math.isfinite(limit) else None
        return Forecast(epochs, costs[epochs], spent, used)

    def _costs(self, name: str, most: int, first: float) -> list[float]:
        """The cost of a step in each epoch up to `most`, by growing a weightless copy."""
        arm = self.arms[name]
        if arm.schedule is None:
            return [first] * (most + 1)
        steps = arm.recipe.epoch(len(self.task.train))
        _check_comes(arm.schedule, arm.recipe.epochs, steps)
        epochs = {other: forecast.epochs for other, forecast in self.forecasts.items()}
        row = Row.of(self.arms, name, steps, {**epochs, name: most})
        found = self._simulation(arm, root(self.arms, name), row)
        _check_made_again(found, blocks_of(self.arms, name))
        sizes = [_size_at(found, row.epochs - most + epoch, steps) for epoch in range(-1, most + 1)]
        return [first * size / sizes[0] for size in sizes[1:]]

    def _simulation(self, arm: Arm, network: Network, row: Row) -> Simulation:
        steps = row.steps_per_epoch
        moments = list(row.times(row.epochs * steps, row.epochs))
        # Arms that differ in their budgets or rates alone grow alike.
        key = network, repr(moments), repr(arm.after), arm.recipe.optimizer
        if key not in self.simulated:
            model = network(self.task)
            images = self.task.prepared(self.task.train.inputs[:EXAMPLES])
            grower = Grower(model, images, arm.recipe.optimizer_of(model.parameters()))
            if arm.schedule is not None:
                Timeline(arm.schedule, after=arm.after).check(grower)
            self.simulated[key] = simulate(
                row, grower, steps=row.epochs * steps, epochs=row.epochs, steps_per_epoch=steps
            )
        return self.simulated[key]


def _cost(network: Network, task: Task) -> float:
    batch = task.train[:EXAMPLES]
    return step_flops(network(task), task.prepared(batch.inputs), batch.labels)


def _size_at(found: Simulation, epoch: int, steps: int) -> int:
    """Forward FLOPs in the epoch after so many; what grows at its start counts."""
    flops = found.sizes[0].flops
    for size in found.sizes[1:]:
        when = size.number if size.unit == "epoch" else size.number / steps
        flops = size.flops if when <= epoch else flops
    return flops


def _check_made_again(found: Simulation, blocks: Collection[str]) -> None:
    """Refuse blocks with which a run that was interrupted could not go on."""
    for size in found.sizes:
        for missing in sorted({*size.factories} - {*blocks}):
            raise LabError(
                f"{size.morph} puts in '{missing}', whose arguments a file cannot express: a run "
                f"that is interrupted could not go on. Say how it is made: "
                f"Arm(..., blocks={{'{missing}': a function}})."
            )


def _check_comes(schedule: Schedule, epochs: int, steps_per_epoch: int) -> None:
    """Refuse a growth that waits for what never comes."""
    for part in _parts(schedule):
        if isinstance(part, OnPlateau) and part.metric not in METRICS:
            raise LabError(
                f"its schedule waits for the metric '{part.metric}', which never comes: "
                f"only {' and '.join(METRICS)} are measured."
            )
        if isinstance(part, At) and not list(part.times(epochs * steps_per_epoch, epochs)):
            raise LabError(
                f"{part} never comes: it trains for {epochs} epochs, "
                f"{epochs * steps_per_epoch} steps."
            )


def _parts(schedule: Schedule) -> tuple[Schedule, ...]:
    return schedule.parts if isinstance(schedule, Together) else (schedule,)


@dataclass(frozen=True)
class Row(Schedule):
    """The schedules of an arm and of those it starts from, one behind the other; to simulate.

    parts: (schedule, epochs before it, its epochs).
    """

    parts: tuple[tuple[Schedule, int, int], ...]
    steps_per_epoch: int
    epochs: int

    @classmethod
    def of(
        cls, arms: Mapping[str, Arm], name: str, steps_per_epoch: int, epochs: Mapping[str, int]
    ) -> Row:
        """Of this arm, after those before it; epochs: of each."""
        line: list[str] = [name]
        while (start := arms[line[0]].start) is not None:
            line.insert(0, start.arm)
        parts, before = [], 0
        for arm in line:
            schedule = arms[arm].schedule
            if schedule is not None:
                parts.append((schedule, before, epochs[arm]))
            before += epochs[arm]
        return cls(tuple(parts), steps_per_epoch, before)

    def due(self, now: Moment, memory: Memory) -> Sequence[Morph]:
        """Nothing: a row is only looked at."""
        return ()

    def times(self, steps: int, epochs: int) -> Iterator[tuple[str, int, Morph]]:
        """All moments; what waits for a metric is taken to come as soon as it can."""
        for schedule, before, own in self.parts:
            for part in _parts(schedule):
                for unit, number, morph in _soonest(part, own * self.steps_per_epoch, own):
                    shift = before if unit == "epoch" else before * self.steps_per_epoch
                    yield unit, number + shift, morph


def _soonest(schedule: Schedule, steps: int, epochs: int) -> Iterator[tuple[str, int, Morph]]:
    if not isinstance(schedule, OnPlateau):
        yield from schedule.times(steps, epochs)
        return
    for count in range(1, schedule.most + 1):
        moment = min(schedule.patience * count, epochs)
        yield from At(schedule.morph, epoch=moment).times(steps, epochs)
