"""What the experiments about the scratch frontier share: images, networks, the recipe.

ResNetCifar-18(1/8 -> 3/16) on CIFAR-10, 45,000 training images, AdamW. Budgets are given in epochs
of the large network, whose training step takes 1.22 GFLOPs for 128 images; the small one's takes
.487 of that. Each training has a warm-up and a cosine over its own length.
"""

from fractions import Fraction
from functools import partial

from torch import nn

from gnomon.lab.data.sources import Images
from gnomon.lab.data.tasks import ImageTask
from gnomon.lab.experiment import Network
from gnomon.lab.training.recipe import Recipe
from gnomon.models import ResNetCifar

DATA = Images("cifar10", validation=5000)
SHARE = 0.4866  # of the large network's FLOPs that a step of the small one takes
UNTIL_SPENT = 10_000  # epochs: the budget ends a training before
STEPS = 351  # in an epoch of 45,000 images


def resnet(task: ImageTask, *, r: Fraction, blocks: int = 4) -> nn.Module:
    """A ResNetCifar for a task."""
    return ResNetCifar(r, blocks, classes=task.classes, channels=task.channels)


SMALL: Network = partial(resnet, r=Fraction(1, 8))  # ResNetCifar-18(1/8)
SHORT: Network = partial(resnet, r=Fraction(1, 8), blocks=2)  # ResNetCifar-10(1/8)
LARGE: Network = partial(resnet, r=Fraction(3, 16))  # ResNetCifar-18(3/16)


def recipe(lr: float, *, augment: bool = False) -> Recipe:
    """AdamW at this highest rate, as long as the budget lasts."""
    return Recipe(UNTIL_SPENT, lr=lr, weight_decay=1e-2, augment=augment)


def small_steps(epochs: float) -> int:
    """How many steps of the small network take the FLOPs of so many epochs of the large one."""
    return round(epochs * STEPS / SHARE)
