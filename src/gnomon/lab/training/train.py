"""A training loop on Lightning Fabric: it trains, measures, grows when it is time, and resumes."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from gnomon.callbacks import Progress, replay
from gnomon.grower import Grower
from gnomon.lab.data.tasks import Split, Task
from gnomon.lab.errors import LabError
from gnomon.lab.training.compute import Cost, step_cost
from gnomon.lab.training.machine import Machine
from gnomon.lab.training.recipe import Recipe, augmented
from gnomon.planning.plan import Plan
from gnomon.receipt import Receipt
from gnomon.schedule import Timeline

EXAMPLES = 16  # inputs handed to a growth: new running statistics start from what they show
EVALUATION_BATCH = 1000


@dataclass(frozen=True)
class Spent:
    """What training has taken so far: counts, FLOPs in two conventions, seconds of computing.

    Evaluation and the proofs of growths are not in the FLOPs, evaluation is not in the seconds.
    """

    epoch: int = 0
    step: int = 0
    flops: int = 0
    paper_flops: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Measured(Spent):
    """The state after an epoch.

    loss:     mean over the epoch's training steps; nan before the first.
    accuracy: on the validation split, in eval mode.
    """

    loss: float = math.nan
    accuracy: float = math.nan
    parameters: int = 0


@dataclass(frozen=True)
class Grown(Spent):
    """A growth between two epochs, and what it took."""

    receipt: Receipt | None = None


@dataclass(frozen=True)
class Round:
    """An epoch: its measurement, and the growths that came after it."""

    point: Measured
    growths: tuple[Grown, ...] = ()


class Training:
    """One network under training: everything that its next step depends on.

    model:    trained in place. timeline: when it grows, counted in this training's own epochs and
              steps. spent: what was spent on the network before, where that counts.
    history:  how the model has grown before, so that a checkpoint can be built from the first one.

    The same seed gives the same batches, whatever the model. `state_dict` is whole between two
    rounds, and a training that loads it goes on to the same bits.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        recipe: Recipe,
        *,
        machine: Machine | None = None,
        timeline: Timeline | None = None,
        spent: Spent | None = None,
        history: Sequence[Plan] = (),
    ) -> None:
        self.fabric = (machine or Machine()).fabric()
        self.model, self.recipe, self.timeline = model, recipe, timeline
        self.task = task.to(self.fabric.device)
        self.optimizer = recipe.optimizer_of(model.parameters())
        # Fabric's wrappers move, scale and synchronise; growing acts on what they wrap.
        self.forward, self.stepper = self.fabric.setup(model, self.optimizer)
        self.order = torch.Generator().manual_seed(recipe.seed)
        self.batch = min(recipe.batch, len(task.train))
        self.steps_per_epoch = recipe.epoch(len(task.train))
        self.start = self.spent = spent or Spent()
        self.history = tuple(history)
        self.begun = False
        self._grower: Grower | None = None
        self.cost = self._cost()

    def rounds(self) -> Iterator[Round]:
        """Train to the end: a round before the first epoch, and one after each.

        Raises `LabError` if the loss diverges, or if the recipe's FLOPs do not pay a single step;
        and what `Timeline.advance` raises.
        """
        if not self.begun:
            point = self.measured(math.nan)
            growths = self._grow()
            self._check_budget()
            self.begun = True
            yield Round(point, growths)
        while not self._done():
            point = self.measured(self._train_epoch())
            yield Round(point, self._grow(accuracy=point.accuracy, loss=point.loss))

    def measured(self, loss: float) -> Measured:
        """Evaluate on the validation split and read the meters."""
        parameters = sum(p.numel() for p in self.model.parameters())
        right = accuracy(self.forward, self.task, self.task.validation)
        return Measured(**asdict(self.spent), loss=loss, accuracy=right, parameters=parameters)

    def grower(self) -> Grower:
        """The grower of this model; its examples are the first training images."""
        if self._grower is None:
            self._grower = Grower(self.model, self._inputs(EXAMPLES), self.optimizer)
            self._grower.history = self.history
        return self._grower

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimizer, growth, counters and random states: text and tensors."""
        progress = Progress.of(self.model, self.history, [self.optimizer])
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "growth": progress.state_dict(),
            "timeline": json.dumps(self.timeline.state_dict() if self.timeline else None),
            "spent": asdict(self.spent) | {"start": asdict(self.start)},
            "order": self.order.get_state(),
            "random": torch.get_rng_state(),
            "random_on_gpu": torch.cuda.get_rng_state(self._gpu) if self._gpu else None,
            "precision": self.fabric._precision.state_dict(),
            "begun": self.begun,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there. `regrown` must have given the model the shapes of then."""
        self._load_network(state, optimizer=True)
        if self.timeline is not None:
            self.timeline.load_state_dict(json.loads(state["timeline"]))
        counts = dict(state["spent"])
        self.start, self.spent = Spent(**counts.pop("start")), Spent(**counts)
        self.order.set_state(state["order"])
        torch.set_rng_state(state["random"])
        if self._gpu and state["random_on_gpu"] is not None:
            torch.cuda.set_rng_state(state["random_on_gpu"], self._gpu)
        self.fabric._precision.load_state_dict(state["precision"])
        self.begun = state["begun"]

    def inherit(self, state: Mapping[str, Any], *, carry: bool) -> None:
        """Begin with the network of another training.

        carry: its optimizer's state goes along and what was spent counts, under this recipe.
        """
        self._load_network(state, optimizer=carry)
        if carry:
            counts = {k: v for k, v in state["spent"].items() if k != "start"}
            self.start = self.spent = Spent(**counts)
            self.order.set_state(state["order"])
            decays = any(group["weight_decay"] for group in self.optimizer.param_groups)
            for group in self.optimizer.param_groups:
                group.update(lr=self.recipe.lr, initial_lr=self.recipe.lr)
                if group["weight_decay"] or not decays:  # else one that a growth has spared it
                    group["weight_decay"] = self.recipe.weight_decay

    def _load_network(self, state: Mapping[str, Any], *, optimizer: bool) -> None:
        self.model.load_state_dict(state["model"])
        if optimizer:
            progress = Progress.from_state_dict(state["growth"])
            progress.regroup(self.model, [self.optimizer])
            self.optimizer.load_state_dict(state["optimizer"])

    def _prepare_groups(self) -> None:
        """Every group keeps its own highest rate; one that a growth made brings it along."""
        for group in self.optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])

    def _done(self) -> bool:
        own = self.spent.epoch - self.start.epoch
        return own >= self.recipe.epochs or not self._affordable()

    def _check_budget(self) -> None:
        if not self._affordable():
            raise LabError(
                f"Training cannot begin: one step takes {self.cost.full:,} FLOPs, and of the "
                f"recipe's {self.recipe.flops:,} FLOPs {self.spent.flops:,} are spent already. "
                f"Give it more."
            )

    def _affordable(self) -> bool:
        most = self.recipe.flops
        return most is None or self.spent.flops + self.cost.full <= most

    def _train_epoch(self) -> float:
        """Go through the training images in a new order; return the mean loss."""
        start = time.perf_counter()
        self.forward.train()
        self._prepare_groups()
        total, steps = torch.zeros((), device=self.fabric.device), 0
        for rows in self._rows():
            if not self._affordable():
                break
            total += self._train_step(self.task.train[rows])
            steps += 1
        loss = total.item() / steps
        seconds = self.spent.seconds + time.perf_counter() - start
        self.spent = replace(self.spent, epoch=self.spent.epoch + 1, seconds=seconds)
        if not math.isfinite(loss):
            raise LabError(
                f"Training cannot go on: the loss of epoch {self.spent.epoch} is {loss}. "
                f"Use a learning rate below {self.recipe.lr:g}."
            )
        return loss

    def _rows(self) -> Tensor:
        """The images of an epoch, a batch in each row; each pass through them has a new order."""
        whole = len(self.task.train) // self.batch
        passes = range(-(-self.steps_per_epoch // whole))
        orders = [torch.randperm(len(self.task.train), generator=self.order) for _ in passes]
        # Images that do not fill a last batch wait for another pass: every step costs the same.
        batches = torch.cat([order[: whole * self.batch].view(-1, self.batch) for order in orders])
        return batches[: self.steps_per_epoch].to(self.fabric.device)

    def _train_step(self, batch: Split) -> Tensor:
        share = self.recipe.share(self._share_done())
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * share
        images = augmented(batch.inputs, self.order) if self.recipe.augment else batch.inputs
        outputs = self.forward(self.task.prepared(images))
        loss = self.task.loss(outputs, batch.labels)
        self.fabric.backward(loss)
        self.stepper.step()
        self.optimizer.zero_grad()
        spent = self.spent
        self.spent = replace(
            spent,
            step=spent.step + 1,
            flops=spent.flops + self.cost.full,
            paper_flops=spent.paper_flops + self.cost.papers,
        )
        return loss.detach()

    def _share_done(self) -> float:
        """How much of this training is done in the middle of the coming step."""
        steps = self.spent.step - self.start.step + 0.5
        share = steps / (self.recipe.epochs * self.steps_per_epoch)
        if self.recipe.flops is None:
            return share
        spent = self.spent.flops - self.start.flops + 0.5 * self.cost.full
        return max(share, spent / max(1, self.recipe.flops - self.start.flops))

    def _grow(self, **metrics: float) -> tuple[Grown, ...]:
        """Make the growths that are due."""
        if self.timeline is None:
            return ()
        start = time.perf_counter()
        receipts = self.timeline.advance(
            self.grower(),
            step=self.spent.step - self.start.step,
            epoch=self.spent.epoch - self.start.epoch,
            metrics=metrics,
        )
        self.history = self.grower().history
        seconds = self.spent.seconds + time.perf_counter() - start
        self.spent = replace(self.spent, seconds=seconds)
        if receipts:
            self.cost = self._cost()
        return tuple(Grown(**asdict(self.spent), receipt=receipt) for receipt in receipts)

    def _cost(self) -> Cost:
        labels = self.task.train.labels[: self.batch]
        return step_cost(self.model, self._inputs(self.batch), labels)

    def _inputs(self, count: int) -> Tensor:
        """The first training inputs, as the unwrapped model takes them."""
        inputs = self.task.prepared(self.task.train.inputs[:count])
        dtype = next(self.model.parameters()).dtype
        return inputs.to(dtype) if inputs.is_floating_point() else inputs

    @property
    def _gpu(self) -> torch.device | None:
        """The device, if it has a generator of its own."""
        return self.fabric.device if self.fabric.device.type == "cuda" else None


def regrown(
    model: nn.Module,
    state: Mapping[str, Any],
    blocks: Mapping[str, Callable[..., nn.Module]] | None = None,
) -> tuple[Plan, ...]:
    """Give the first model the modules and shapes of a checkpoint's; return its history.

    blocks: as in `gn.load`.
    """
    history = Progress.from_state_dict(state["growth"]).history
    replay(model, history, dict(blocks or {}))
    return history


@dataclass(frozen=True)
class Score:
    """How right a model is: the share of labels it gets right, its mean loss in nats."""

    accuracy: float
    loss: float


def accuracy(model: nn.Module, task: Task, split: Split) -> float:
    """Return the share of a split's labels that the model gets right in eval mode."""
    return score(model, task, split).accuracy


def score(model: nn.Module, task: Task, split: Split) -> Score:
    """Evaluate a model on a split, in eval mode; its mode is kept."""
    device = next(model.parameters()).device
    task, split, training = task.to(device), split.to(device), model.training
    right, loss = 0, torch.zeros((), dtype=torch.float64)
    model.eval()
    with torch.no_grad():
        for batch in split.batches(EVALUATION_BATCH):
            outputs = model(task.prepared(batch.inputs))
            right += int((outputs.argmax(dim=-1) == batch.labels).sum())
            loss += task.loss(outputs, batch.labels).double().cpu() * batch.labels.numel()
    model.train(training)
    return Score(right / split.labels.numel(), loss.item() / split.labels.numel())
