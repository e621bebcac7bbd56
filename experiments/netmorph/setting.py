"""What the CIFAR-10 experiments of paper 003 share: its images, its networks, a recipe.

Wei et al., "Network Morphism", section 4. The paper does not print how it trains; its networks come
from Caffe's cifar10_quick. Optimizer and rates are ours: AdamW and a cosine, begun anew at each
growth. (SGD at 0.03 trains networks from scratch as well, but factored ones collapse under it; at
0.01 all train, slower.) Convolutions are drawn by He's rule: twelve in a row, without norms, do not
train from PyTorch's start.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from math import ceil

import torch
from torch import nn

from gnomon.lab.data.sources import Images
from gnomon.lab.data.tasks import ImageTask
from gnomon.lab.experiment import Arm, Budget, Network, Size
from gnomon.lab.training.compute import convolution_flops
from gnomon.lab.training.recipe import Recipe
from gnomon.models import CifarQuick, kaiming

DATA = Images("cifar10", validation=5000)
RECIPE = Recipe(epochs=40, lr=1e-3, weight_decay=1e-2)

# Table 1 in its own notation: three groups of (kernel, channels), channels in units of `width`,
# 32 in the paper. "[...]x2[...]x2" are four subnets: two of 32 channels, two of 64 in one group.
TABLE: Mapping[str, list[list[tuple[int, int]]]] = {
    "111": [[(5, 1)], [(5, 1)], [(5, 2)]],
    "211": [[(5, 4), (1, 1)], [(5, 1)], [(5, 2)]],
    "222": [[(5, 4), (1, 1)], [(5, 4), (1, 1)], [(5, 8), (1, 2)]],
    "2222": [[(5, 4), (1, 1)], [(5, 4), (1, 1)], [(5, 8), (1, 2), (5, 8), (1, 2)]],
    "3333": [
        [(5, 4), (3, 4), (1, 1)],
        [(5, 4), (3, 4), (1, 1)],
        [(5, 8), (3, 8), (1, 2), (5, 8), (3, 8), (1, 2)],
    ],
    "base": [[(5, 1), (1, 1)], [(5, 1), (1, 1)], [(5, 2), (1, 2)]],
    "ksize": [[(5, 1), (3, 1)], [(5, 1), (3, 1)], [(5, 2), (3, 2)]],
    "width": [[(5, 2), (3, 1)], [(5, 2), (3, 1)], [(5, 4), (3, 2)]],
    "wide base": [[(5, 2), (1, 1)], [(5, 2), (1, 1)], [(5, 4), (1, 2)]],
}


def cifar(
    task: ImageTask, *, name: str, width: int, activation: Callable[[], nn.Module] = nn.ReLU
) -> nn.Module:
    """A network of table 1 for a task."""
    model = CifarQuick(
        groups(name, width),
        classes=task.classes,
        channels=task.channels,
        size=task.train.inputs.shape[-1],
        activation=activation,
    )
    return kaiming(model, by="fan_in")


def groups(name: str, width: int) -> list[list[tuple[int, int]]]:
    """Kernels and channels of a network of table 1."""
    return [[(kernel, units * width) for kernel, units in group] for group in TABLE[name]]


def network(name: str, size: Size, activation: Callable[[], nn.Module] = nn.ReLU) -> Network:
    """A network of table 1 in the width of a size."""
    return partial(cifar, name=name, width=int(size.numbers["width"]), activation=activation)


def sized(recipe: Recipe, size: Size) -> Recipe:
    """A recipe for a size; narrow networks bear a higher rate, `faster` times the usual one."""
    return replace(recipe, epochs=size.epochs, lr=recipe.lr * size.numbers.get("faster", 1))


def scratch(chain: list[str], size: Size, activation: Callable[[], nn.Module] = nn.ReLU) -> Arm:
    """The last network of a chain from scratch, with the FLOPs that the whole chain takes.

    Each network of the chain trains for the size's epochs. Its settings are its own, where
    `gnomon sweep` has found some for this size.
    """
    costs = [_cost(name, int(size.numbers["width"])) for name in chain]
    epochs = size.epochs * sum(costs) / costs[-1]
    last = network(chain[-1], size, activation)
    usual = sized(RECIPE, size)
    recipe = replace(
        usual,
        epochs=ceil(epochs),
        lr=size.numbers.get("scratch_lr", usual.lr),
        weight_decay=size.numbers.get("scratch_decay", usual.weight_decay),
    )
    return Arm(recipe, last, budget=Budget(epochs, last))


def _cost(name: str, width: int) -> int:
    """FLOPs of the convolutions for one 32x32 image in colour."""
    return convolution_flops(CifarQuick(groups(name, width)), torch.zeros(1, 3, 32, 32))
