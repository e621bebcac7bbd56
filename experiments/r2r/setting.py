"""What the experiments of paper 000 share: its images, its optimizer and its networks.

Painter, "Towards a More Complete Theory of Function Preserving Transforms", section 7 and appendix
C: batches of 128, Adam at a constant rate, cross-entropy, no augmentation, a mean image subtracted,
1,000 of the training images held out. (The published code runs amsgrad, on values up to 255.)
"""

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from functools import partial

from torch import nn

from gnomon.lab.data.sources import Images
from gnomon.lab.data.tasks import ImageTask
from gnomon.lab.experiment import Arm, Network, Size
from gnomon.lab.training.recipe import Recipe
from gnomon.models import ResNetCifar, kaiming

DATA = Images("cifar10", validation=1000, pixel_mean=True)
RECIPE = Recipe(
    epochs=250, lr=3e-3, weight_decay=5e-3, optimizer="adam", shape="constant", warmup=0
)

SWEPT: Mapping[int, Mapping[str, float]] = {  # `gnomon sweep` on seed 100, by epochs
    3: {"scratch_lr": 2.9e-3, "scratch_decay": 2.1e-4},
    4: {"scratch_lr": 3.3e-3, "scratch_decay": 2.7e-5},
    8: {"scratch_lr": 3.3e-3, "scratch_decay": 2.7e-5},  # taken from four: it was not swept
}


def resnet(task: ImageTask, *, r: Fraction, blocks: int, residual: bool = True) -> nn.Module:
    """A ResNetCifar for a task, its convolutions drawn as in the published code."""
    network = ResNetCifar(
        r, blocks, classes=task.classes, channels=task.channels, residual=residual
    )
    return kaiming(network, by="fan_out")


NARROW: Network = partial(resnet, r=Fraction(1, 8), blocks=4)  # ResNetCifar-18(1/8)
SHORT: Network = partial(resnet, r=Fraction(3, 16), blocks=2)  # ResNetCifar-10(3/16)
LARGE: Network = partial(resnet, r=Fraction(3, 16), blocks=4)  # ResNetCifar-18(3/16)


def plain(network: Network) -> Network:
    """The same without residual connections: what the paper gives to Net2Net."""
    return partial(network, residual=False)


def scratch(recipe: Recipe, size: Size) -> Arm:
    """The large network from scratch, with settings of its own.

    They are the paper's, unless `gnomon sweep` has found others for this size.
    """
    lr = size.numbers.get("scratch_lr", recipe.lr)
    decay = size.numbers.get("scratch_decay", recipe.weight_decay)
    return Arm(replace(recipe, epochs=size.epochs, lr=lr, weight_decay=decay), LARGE)
