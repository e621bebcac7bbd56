"""The data of a training by name: in memory, split, and made ready when it is used."""

import importlib
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from gnomon.lab.data.images import cached, parquet_files
from gnomon.lab.errors import LabError, MissingExtra

HUB = {"cifar10": "uoft-cs/cifar10", "mnist": "ylecun/mnist"}
NAMES = ("digits", *HUB)


@dataclass(frozen=True)
class Split:
    """inputs: (N, ...) uint8, pixels or characters; labels: (N,) or (N, ...) int64, the classes."""

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Tensor | slice) -> "Split":
        return Split(self.inputs[rows], self.labels[rows])

    def to(self, device: torch.device) -> "Split":
        """Return the split on a device."""
        return Split(self.inputs.to(device), self.labels.to(device))

    def batches(self, size: int) -> Iterator["Split"]:
        """Walk through the split in order; the last batch may be smaller."""
        for start in range(0, len(self), size):
            yield self[start : start + size]


@dataclass(frozen=True)
class Task:
    """Inputs to be classified: each as a whole, or at each of its positions."""

    name: str
    train: Split
    validation: Split
    test: Split
    classes: int

    def prepared(self, inputs: Tensor) -> Tensor:
        """Return inputs as a network takes them."""
        raise NotImplementedError

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross-entropy in nats of logits (..., classes) for labels (...)."""
        return mean_loss(outputs, labels)

    def to(self, device: torch.device) -> Self:
        """Return the task with all its tensors on a device."""
        held = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {
            name: value.to(device)
            for name, value in held.items()
            if isinstance(value, Split | Tensor)
        }
        return replace(self, **moved)


@dataclass(frozen=True)
class ImageTask(Task):
    """Images (N, channels, height, width). `mean` and `std`: of the training split.

    Both are (channels, 1, 1); `mean` is (channels, height, width) where each pixel has its own.
    """

    channels: int
    mean: Tensor
    std: Tensor

    def prepared(self, inputs: Tensor) -> Tensor:
        """Return float images with mean 0 and standard deviation 1 in each channel."""
        return (inputs.to(self.mean.dtype) - self.mean) / self.std


def mean_loss(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy in nats of logits (..., classes) for labels (...)."""
    return cross_entropy(outputs.movedim(-1, 1), labels)


def load(
    data: str, *, seed: int = 0, validation: int | None = None, pixel_mean: bool = False
) -> ImageTask:
    """Return a data set by name (digits, mnist, cifar10) or from a folder of parquet files.

    validation: how many training images to hold out; by default a tenth (of the few digits a
                fifth). Which ones depends on the seed; the test split never does.
    pixel_mean: subtract a mean image instead of a mean colour.

    Raises `LabError`.
    """
    if data == "digits":
        train, test = _digits()
        task = _task(data, train, test, validation=validation or 0.2, seed=seed)
    else:
        if data not in HUB:
            parquet_files(Path(data))
        arrays = cached(HUB.get(data, data))
        train = Split(torch.from_numpy(arrays.train_images), torch.from_numpy(arrays.train_labels))
        test = Split(torch.from_numpy(arrays.test_images), torch.from_numpy(arrays.test_labels))
        name = Path(data).resolve().name
        task = _task(name, train, test, validation=validation or 0.1, seed=seed)
    return replace(task, mean=_mean_image(task.train)) if pixel_mean else task


def _mean_image(split: Split) -> Tensor:
    total = sum(batch.inputs.double().sum(0) for batch in split.batches(1000))
    return (torch.as_tensor(total) / len(split)).float()


def _digits() -> tuple[Split, Split]:
    """scikit-learn's 1,797 digits, values 0 to 16; a fifth, always the same, is the test split."""
    try:
        bunch = importlib.import_module("sklearn.datasets").load_digits()
    except ImportError as error:
        raise MissingExtra("The data 'digits'", error.name) from None
    images = torch.from_numpy(bunch.images).to(torch.uint8).unsqueeze(1)
    return _divided(Split(images, torch.from_numpy(bunch.target).long()), 0.2, seed=0)


def _divided(split: Split, share: float | int, seed: int) -> tuple[Split, Split]:
    """Return the rest and a share, or a number, of the rows, both in shuffled order."""
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))
    count = share if isinstance(share, int) else round(share * len(split))
    return split[order[count:]], split[order[:count]]


def _task(
    name: str, images: Split, test: Split, *, validation: float | int, seed: int
) -> ImageTask:
    train, held_out = _divided(images, validation, seed)
    if not (len(train) and len(held_out)):
        raise LabError(f"The data '{name}' cannot be split: it has only {len(images)} images.")
    classes = _classes(name, images, test)
    mean, std = _statistics(train)
    return ImageTask(name, train, held_out, test, classes, images.inputs.shape[1], mean, std)


def _statistics(split: Split) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel, summed in float64 over batches of uint8."""
    channels = split.inputs.shape[1]
    total = squares = torch.zeros(channels, dtype=torch.float64)
    for batch in split.batches(1000):
        values = batch.inputs.double().transpose(0, 1).reshape(channels, -1)
        total, squares = total + values.sum(1), squares + values.square().sum(1)
    count = split.inputs.numel() // channels
    mean = total / count
    spread = (squares / count - mean.square()).clamp_min(0).sqrt()
    spread[spread == 0] = 1.0  # a channel that never changes
    return mean.float().view(-1, 1, 1), spread.float().view(-1, 1, 1)


def _classes(name: str, train: Split, test: Split) -> int:
    classes = int(train.labels.max()) + 1
    lowest, highest = int(train.labels.min()), int(test.labels.max())
    if lowest < 0 or highest >= classes or int(test.labels.min()) < 0:
        raise LabError(
            f"The data '{name}' cannot be used: its labels must run from 0 and the test split may "
            f"hold no other; training has {lowest} to {classes - 1}, test reaches {highest}."
        )
    if train.inputs.shape[1:] != test.inputs.shape[1:]:
        raise LabError(
            f"The data '{name}' cannot be used: training images are "
            f"{tuple(train.inputs.shape[1:])}, test images {tuple(test.inputs.shape[1:])}."
        )
    return classes
