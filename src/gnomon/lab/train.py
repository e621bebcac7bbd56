"""A training loop on Lightning Fabric: it trains, measures, and grows where it is told to."""

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import AdamW, Optimizer
from torch.utils.flop_counter import FlopCounterMode

from gnomon.lab.errors import LabError, MissingExtra
from gnomon.lab.tasks import Split, Task

try:
    from lightning.fabric import Fabric
except ImportError as error:
    raise MissingExtra("Training", error.name) from None

EXAMPLES = 128  # images handed to a growth: it measures new channels' statistics on them
EVALUATION_BATCH = 1000

Growth = Callable[[nn.Module, Optimizer, Tensor], object]
"""Grows a model in place with its optimizer, given a batch of inputs, and returns the receipt."""


@dataclass(frozen=True)
class Recipe:
    """AdamW; the rate climbs for `warmup` (share of all steps) and falls to 0 along a cosine."""

    epochs: int
    batch: int = 128
    lr: float = 3e-3
    weight_decay: float = 1e-2
    warmup: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 1:
            raise ValueError(f"epochs={self.epochs} and batch={self.batch} must be at least 1.")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup={self.warmup} must be a share of the steps, below 1.")

    def rate(self, step: int, steps: int) -> float:
        """Return the learning rate in the middle of a step, counted from 0, out of `steps`."""
        done, warm = (step + 0.5) / steps, self.warmup
        if done < warm:
            return self.lr * done / warm
        return self.lr * (1 + math.cos(math.pi * (done - warm) / (1 - warm))) / 2


@dataclass(frozen=True)
class Machine:
    """Where and how precisely to compute: device auto, cpu or cuda; a precision of Fabric's."""

    device: str = "auto"
    precision: str = "32-true"

    def fabric(self) -> Fabric:
        """Return Fabric on one device; `LabError` if this machine has none of that kind."""
        cuda = torch.cuda.is_available()
        if self.device == "cuda" and not cuda:
            raise LabError("The device cuda cannot be used: torch finds none here. Use cpu.")
        chosen = ("cuda" if cuda else "cpu") if self.device == "auto" else self.device
        return Fabric(accelerator=chosen, devices=1, precision=self.precision)


@dataclass(frozen=True)
class Measured:
    """The state after an epoch.

    loss:     mean over the epoch's training steps; nan before the first.
    accuracy: on the validation split, in eval mode.
    flops:    of all training steps so far; evaluation and the proofs of growths are not in it.
    seconds:  of all training steps and growths so far; evaluation is not in it.
    """

    epoch: int
    step: int
    loss: float
    accuracy: float
    parameters: int
    flops: int
    seconds: float


@dataclass(frozen=True)
class Grown:
    """A growth between two epochs, with what the growth returned."""

    epoch: int
    step: int
    flops: int
    receipt: object


def train(
    model: nn.Module,
    task: Task,
    recipe: Recipe,
    *,
    machine: Machine | None = None,
    growths: Sequence[tuple[int, Growth]] = (),
) -> Iterator[Measured | Grown]:
    """Train a model in place, yielding a measurement per epoch and one before the first.

    `growths` are pairs (epoch, growth): the growth happens once that many epochs are done. The
    same seed gives the same batches, whatever the model. Raises `LabError` if the loss diverges.
    """
    fabric = (machine or Machine()).fabric()
    optimizer = AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    loop = _Loop(fabric, model, optimizer, task.to(fabric.device), recipe)
    yield loop.measured(epoch=0, loss=math.nan)
    yield from loop.grown(epoch=0, growths=growths)
    for epoch in range(1, recipe.epochs + 1):
        loss = loop.train_epoch(epoch)
        yield loop.measured(epoch, loss)
        yield from loop.grown(epoch, growths)


def accuracy(model: nn.Module, task: Task, split: Split) -> float:
    """Return the share of a split that the model gets right in eval mode; its mode is kept."""
    device = next(model.parameters()).device
    task, split, training, right = task.to(device), split.to(device), model.training, 0
    model.eval()
    with torch.no_grad():
        for batch in split.batches(EVALUATION_BATCH):
            guesses = model(task.normalised(batch.images)).argmax(dim=1)
            right += int((guesses == batch.labels).sum())
    model.train(training)
    return right / len(split)


def step_flops(model: nn.Module, images: Tensor, labels: Tensor) -> int:
    """Return the FLOPs of one step, forward and backward (a multiply-add counts 2), on a copy."""
    twin = copy.deepcopy(model).train()
    with FlopCounterMode(display=False) as counter:
        torch.autograd.backward(cross_entropy(twin(images), labels))
    return int(counter.get_total_flops())


class _Loop:
    """One run: the model and its optimizer under Fabric, the order of the images, the meters."""

    def __init__(
        self, fabric: Fabric, model: nn.Module, optimizer: Optimizer, task: Task, recipe: Recipe
    ) -> None:
        self.fabric, self.task, self.recipe = fabric, task, recipe
        self.model, self.optimizer = model, optimizer
        # Fabric's wrappers move, scale and synchronise; growing acts on what they wrap.
        self.forward, self.stepper = fabric.setup(model, optimizer)
        self.order = torch.Generator().manual_seed(recipe.seed)
        self.batch = min(recipe.batch, len(task.train))
        self.steps_per_epoch = len(task.train) // self.batch
        self.step = self.flops = 0
        self.seconds = 0.0
        self.flops_per_step = self._flops_per_step()

    def train_epoch(self, epoch: int) -> float:
        """Go once through the training images, in a new order; return the mean loss."""
        start = time.perf_counter()
        self.forward.train()
        order = torch.randperm(len(self.task.train), generator=self.order).to(self.fabric.device)
        total = torch.zeros((), device=self.fabric.device)
        # Images that do not fill a last batch wait for another epoch: every step costs the same.
        for rows in order[: self.steps_per_epoch * self.batch].view(-1, self.batch):
            total += self._train_step(self.task.train[rows])
        loss = total.item() / self.steps_per_epoch
        self.seconds += time.perf_counter() - start
        if not math.isfinite(loss):
            raise LabError(
                f"Training cannot go on: the loss of epoch {epoch} is {loss}. "
                f"Use a learning rate below {self.recipe.lr:g}."
            )
        return loss

    def measured(self, epoch: int, loss: float) -> Measured:
        """Evaluate on the validation split and read the meters."""
        parameters = sum(p.numel() for p in self.model.parameters())
        right = accuracy(self.forward, self.task, self.task.validation)
        return Measured(epoch, self.step, loss, right, parameters, self.flops, self.seconds)

    def grown(self, epoch: int, growths: Sequence[tuple[int, Growth]]) -> Iterator[Grown]:
        """Run the growths that are due after this many epochs."""
        example = self.task.normalised(self.task.train.images[:EXAMPLES])
        for _, growth in (due for due in growths if due[0] == epoch):
            start = time.perf_counter()
            receipt = growth(self.model, self.optimizer, example)
            self.seconds += time.perf_counter() - start
            self.flops_per_step = self._flops_per_step()
            yield Grown(epoch, self.step, self.flops, receipt)

    def _train_step(self, batch: Split) -> Tensor:
        steps = self.recipe.epochs * self.steps_per_epoch
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate(self.step, steps)
        loss: Tensor = cross_entropy(self.forward(self.task.normalised(batch.images)), batch.labels)
        self.fabric.backward(loss)
        self.stepper.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.flops += self.flops_per_step
        return loss.detach()

    def _flops_per_step(self) -> int:
        batch = self.task.train[: self.batch]
        return step_flops(self.model, self.task.normalised(batch.images), batch.labels)
