"""One arm of a comparison: a network trained to the end, recorded, watched, then tested."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gnomon.grower import Grower, Morph
from gnomon.lab.errors import LabError
from gnomon.lab.record import Record
from gnomon.lab.tasks import Task
from gnomon.lab.train import Grown, Machine, Measured, Recipe, accuracy, train
from gnomon.plan import Plan
from gnomon.receipt import Receipt


@dataclass(frozen=True)
class Arm:
    """A finished arm: its network, its measurements in order, its accuracy on the test split."""

    name: str
    model: nn.Module
    points: Sequence[Measured]
    growths: Sequence[Grown]
    test_accuracy: float

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


@dataclass
class GrowAll:
    """Several morphs in one moment of training; keeps what it used, planned and proved."""

    morphs: Sequence[Morph]
    seed: int
    grower: Grower | None = None
    done: list[tuple[Plan, Receipt]] = field(default_factory=list)

    def __call__(self, model: nn.Module, optimizer: Optimizer, example: Tensor) -> str:
        self.grower = Grower(model, example, optimizer)
        for morph in self.morphs:
            plan = self.grower.plan(morph, seed=self.seed)
            self.done.append((plan, self.grower.grow(plan)))
        return "\n\n".join(f"{plan}\n\n{receipt}" for plan, receipt in self.done)


def fresh(model: nn.Module, seed: int) -> nn.Module:
    """Return a copy of the same shapes with all parameters and statistics drawn anew.

    Modules draw for themselves with `reset_parameters`, as their constructors do; a module that
    holds parameters or buffers and cannot is a `LabError`.
    """
    twin = copy.deepcopy(model).cpu()
    with seeded(seed):
        for name, module in twin.named_modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
            elif [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
                raise LabError(
                    f"The network cannot start afresh: {type(module).__name__} '{name}' holds "
                    "tensors but has no reset_parameters()."
                )
    return twin


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from a seed inside the block and leave the global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@dataclass(frozen=True)
class Bench:
    """What all arms share: the data, the recipe, the machine, the record and the observer."""

    task: Task
    recipe: Recipe
    machine: Machine
    record: Record
    observer: Observer

    def arm(self, name: str, model: nn.Module, growths: Sequence[tuple[int, GrowAll]] = ()) -> Arm:
        """Train one arm to the end; only then look at the test split."""
        self.observer.started(name, _parameters(model), self.recipe.epochs)
        points: list[Measured] = []
        grown: list[Grown] = []
        due = dict(growths)
        events = train(model, self.task, self.recipe, machine=self.machine, growths=growths)
        for event in events:
            if isinstance(event, Measured):
                points.append(event)
                self.record.write(arm=name, event="epoch", **asdict(event))
                self.observer.measured(name, event)
            else:
                grown.append(event)
                self._tell(name, event, due[event.epoch])
        test = accuracy(model, self.task, self.task.test)
        self.record.write(arm=name, event="test", accuracy=test)
        return Arm(name, model, points, grown, test)

    def _tell(self, name: str, event: Grown, growth: GrowAll) -> None:
        self.record.write(arm=name, event="growth", **asdict(event))
        self.record.text("receipt.txt", f"{event.receipt}\n")
        for plan, receipt in growth.done:
            self.observer.grew(name, str(plan), str(receipt))


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
