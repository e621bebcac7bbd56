"""Train VGG16 (NetMorph) on ImageNet, as for table 3 of "Network Morphism": the recipe.

For whoever has ImageNet (folders of images by class, in train/ and val/), the weights of a trained
VGG16 as torchvision keeps them, and a GPU. The paper took five days on one:

    python experiments/netmorph/imagenet.py IMAGENET --weights vgg16.pth --out runs/vgg

Single scale, images resized to 256, one crop of 224 and its mirror image; SGD and a cosine (the
paper does not print its rate). Tested from one view before training and after each epoch.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import typer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from vgg import MORPHS, SIDE

from gnomon import Grower, save
from gnomon.lab.training.machine import Machine
from gnomon.lab.training.recipe import Recipe
from gnomon.models import VGG16

RECIPE = Recipe(epochs=10, batch=64, lr=1e-3, weight_decay=5e-4, optimizer="sgd", warmup=0.01)
SHORTER = 256
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as torchvision has them


def train(
    imagenet: Path,
    weights: Path | None = None,
    out: Path = Path("runs/vgg"),
    device: str = "auto",
    precision: str = "bf16-mixed",
    workers: int = 8,
    epochs: int = RECIPE.epochs,
) -> None:
    """Grow a trained VGG16, train it on, and keep and test it after each epoch."""
    learning, validation = _split(imagenet, "train"), _split(imagenet, "validation")
    loaders = (
        _loader(learning, _cropped_at_random, workers, shuffle=True),
        _loader(validation, _cropped_in_the_middle, workers, shuffle=False),
    )
    recipe = replace(RECIPE, epochs=epochs)
    fabric = Machine(device, precision).fabric()
    model = VGG16(classes=learning.features["label"].num_classes)
    if weights is not None:
        model.load_state_dict(torch.load(weights, weights_only=True))
    model.to(fabric.device)
    optimizer = recipe.optimizer_of(model.parameters())
    grower = Grower(model, torch.randn(1, 3, SIDE, SIDE, device=fabric.device), optimizer)
    for morph in MORPHS:
        typer.echo(grower.grow(morph))
    forward, stepper = fabric.setup(model, optimizer)
    batches, tests = fabric.setup_dataloaders(*loaders)
    out.mkdir(parents=True, exist_ok=True)
    typer.echo(f"before training: {_tested(forward, tests)}")
    for epoch in range(recipe.epochs):
        forward.train()
        for i, (images, labels) in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate((epoch + (i + 0.5) / len(batches)) / recipe.epochs)
            fabric.backward(cross_entropy(forward(images), labels))
            stepper.step()
            stepper.zero_grad()
        save(grower, out / f"epoch-{epoch + 1}.safetensors")
        typer.echo(f"epoch {epoch + 1}: {_tested(forward, tests)}")


def _split(imagenet: Path, split: str) -> Any:
    from datasets import load_dataset  # takes seconds to import

    return load_dataset("imagefolder", data_dir=str(imagenet), split=split)


def _loader(
    images: Any, crop: Callable[[Any], Any], workers: int, *, shuffle: bool
) -> DataLoader[Any]:
    def batch(rows: Iterable[dict[str, Any]]) -> tuple[Tensor, Tensor]:
        several = list(rows)
        pixels = torch.stack([_pixels(crop(_resized(row["image"]))) for row in several])
        return pixels, torch.tensor([row["label"] for row in several])

    return DataLoader(
        images, RECIPE.batch, shuffle=shuffle, num_workers=workers, collate_fn=batch,
        drop_last=shuffle and len(images) > RECIPE.batch,
    )  # fmt: skip


def _resized(image: Any) -> Any:
    """In colour, its shorter side 256 pixels long."""
    factor = SHORTER / min(image.size)
    wide, high = (max(SHORTER, round(n * factor)) for n in image.size)
    return image.convert("RGB").resize((wide, high))


def _cropped_at_random(image: Any) -> Any:
    """224x224 pixels from anywhere, mirrored every other time."""
    left, top = (random.randint(0, n - SIDE) for n in image.size)
    crop = image.crop((left, top, left + SIDE, top + SIDE))
    return crop.transpose(0) if random.random() < 0.5 else crop  # 0: FLIP_LEFT_RIGHT


def _cropped_in_the_middle(image: Any) -> Any:
    left, top = ((n - SIDE) // 2 for n in image.size)
    return image.crop((left, top, left + SIDE, top + SIDE))


def _pixels(image: Any) -> Tensor:
    """(3, 224, 224), normalised as torchvision's weights want it."""
    values = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    values = values.view(SIDE, SIDE, 3).permute(2, 0, 1) / 255
    return (values - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


@torch.no_grad()
def _tested(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> str:
    """Top-1 and top-5 accuracy from one view, in eval mode."""
    model.eval()
    ranks = [(model(images).topk(5).indices == labels[:, None]).cpu() for images, labels in batches]
    right = torch.cat(ranks)
    return f"top-1 {right[:, 0].float().mean():.2%}, top-5 {right.any(1).float().mean():.2%}"


if __name__ == "__main__":
    typer.run(train)
