"""How a network is trained: optimizer, rate over time, how long, with which noise on the images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

OptimizerName = Literal["adamw", "adam", "amsgrad", "sgd"]
Shape = Literal["cosine", "constant"]

MAKERS: Mapping[str, Callable[..., Optimizer]] = {
    "adamw": AdamW,
    "adam": Adam,
    "amsgrad": partial(Adam, amsgrad=True),
    "sgd": partial(SGD, momentum=0.9, nesterov=True),
}
PADDING = 4  # pixels on each side, of which a crop takes some: the usual recipe for CIFAR-10


@dataclass(frozen=True)
class Recipe:
    """How one network is trained.

    epochs:  passes through the training images, those of a whole batch only.
    steps:   so many make an epoch, in place of a pass: for trainings that are counted in steps.
    shape:   "cosine": the rate climbs for `warmup` (a share of the training) and falls to 0 along a
             cosine; "constant": it climbs and stays.
    augment: random crops of the images padded by four pixels, and random mirror images.
    flops:   training ends before the step that would exceed so many FLOPs (forward + backward, all
             steps since the counters began); the rate then follows FLOPs instead of steps.
    """

    epochs: int
    batch: int = 128
    lr: float = 3e-3
    weight_decay: float = 1e-2
    warmup: float = 0.05
    seed: int = 0
    optimizer: OptimizerName = "adamw"
    shape: Shape = "cosine"
    augment: bool = False
    flops: int | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 1:
            raise ValueError(f"epochs={self.epochs} and batch={self.batch} must be at least 1.")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup={self.warmup} must be a share of the steps, below 1.")
        for name, value in (("lr", self.lr), ("weight_decay", self.weight_decay)):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name}={value} must be a number of 0 or more.")
        known = {"optimizer": [*MAKERS], "shape": [*get_args(Shape)]}
        for what, names in known.items():
            if getattr(self, what) not in names:
                raise ValueError(f"{what}={getattr(self, what)!r} must be one of {names}.")
        for what in ("flops", "steps"):
            most = getattr(self, what)
            if most is not None and most < 1:
                raise ValueError(f"{what}={most} must be at least 1.")

    def epoch(self, images: int) -> int:
        """Return how many steps an epoch of so many images has."""
        return self.steps or images // min(self.batch, images)

    def rate(self, done: float) -> float:
        """Return the learning rate when this share of the training, 0 to 1, is done."""
        return self.lr * self.share(done)

    def share(self, done: float) -> float:
        """Return the rate as a share of `lr`."""
        done, warm = min(max(done, 0.0), 1.0), self.warmup
        if done < warm:
            return done / warm
        if self.shape == "constant":
            return 1.0
        return (1 + math.cos(math.pi * (done - warm) / (1 - warm))) / 2

    def optimizer_of(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """Return a fresh optimizer of these parameters."""
        make = MAKERS[self.optimizer]
        return make(parameters, lr=self.lr, weight_decay=self.weight_decay)


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return a random crop of each padded image, half of them mirrored; drawn on the CPU.

    images: (N, channels, height, width); the padding is 0, which is black in uint8.
    """
    n, _, height, width = images.shape
    padded = nn.functional.pad(images, (PADDING,) * 4)
    shift = torch.randint(0, 2 * PADDING + 1, (2, n, 1), generator=generator).to(images.device)
    mirror = (torch.rand(n, 1, generator=generator) < 0.5).to(images.device)
    rows = shift[0] + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    columns = shift[1] + torch.where(mirror, width - 1 - columns, columns)
    each = torch.arange(n, device=images.device).view(n, 1, 1)
    return padded[each, :, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)
