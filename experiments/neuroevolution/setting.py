"""What the experiments of paper 002 share: images, networks, transforms, the recipe.

Painter, "Deep Neuroevolution with Shared Parameters", section 5 and appendix D: batches of 32, Adam
at a constant 3e-3 with a weight decay of 1e-6, no augmentation, 5 runs. Trainings are counted in
updates; here an epoch is so many of them. 2,000 training images are held out, which leaves 1,500
updates for a pass through CIFAR-10; the paper does not say how many it held out. In its published
code the loss is a binary cross-entropy on one-hot targets; here it is the cross-entropy.

After a transform the rate is multiplied by |theta before| / |theta after| (C.3). A network from
scratch keeps its own: the published one got the student's reduced rate.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from torch import nn

from gnomon import R2R, BySize, Deepen, RandPad, Rule, Widen
from gnomon.lab.data.sources import Images
from gnomon.lab.data.tasks import ImageTask
from gnomon.lab.experiment import Arm, Network, Size, Start
from gnomon.lab.training.recipe import Recipe
from gnomon.models import R2RNet
from gnomon.schedule import At

CIFAR = Images("cifar10", validation=2000)
MNIST = Images("mnist", validation=2000)
RECIPE = Recipe(
    epochs=12, batch=32, lr=3e-3, weight_decay=1e-6, optimizer="adam", shape="constant", warmup=0,
    steps=500,
)  # fmt: skip
# `gnomon sweep neuroevolution/widen --arm scratch` at the quick size, seed 100
SWEPT = {"scratch_lr": 1.3e-3, "scratch_decay": 1.9e-4}

MOMENTS = {"at 0": 0.0, "at 1/4": 0.25, "at 1/2": 0.5, "at 3/4": 0.75}
OUTPUTS = 64  # channels of the third stage, in every network of the paper
FILTERS = [f"stages.{stage}.0.body.conv{i}" for stage in range(3) for i in (1, 2, 3)]


def r2r_net(task: ImageTask, *, widths: Sequence[int | None]) -> nn.Module:
    """An R2RNet for a task."""
    side = task.train.inputs.shape[-1]
    return R2RNet(widths, classes=task.classes, channels=task.channels, size=side)


def base(size: Size) -> Network:
    """The base network; a size says how wide, 32 / 64 / 128 in the paper."""
    w = width(size)
    return partial(r2r_net, widths=(w, 2 * w, 4 * w))


def narrow(size: Size) -> Network:
    """The teacher of the widening: half of the filters in every layer."""
    w = width(size) // 2
    return partial(r2r_net, widths=(w, 2 * w, 4 * w))


def short(size: Size) -> Network:
    """The teacher of the deepening: two stages; for the third, the zero-padded skip alone."""
    w = width(size)
    return partial(r2r_net, widths=(w, 2 * w, None))


def width(size: Size) -> int:
    """Filters within the first stage of the base network."""
    return int(size.numbers["width"])


def widened(rule: Rule) -> Widen:
    """Twice the filters within the stages: the teacher becomes the base network."""
    return Widen(FILTERS, by=2, rule=rule)


def deepened(rule: R2R | RandPad, size: Size) -> Deepen:
    """A third stage beside the skip: three convolutions and a 1x1, as in the base network.

    It reads all 64 channels behind the padding; the base network's reads the 32 in front of it,
    and has so many weights fewer.
    """
    w = 4 * width(size)
    body: OrderedDict[str, nn.Module] = OrderedDict()
    for i, before in enumerate((OUTPUTS, w, w), start=1):
        body[f"conv{i}"] = nn.Conv2d(before, w, 3, padding=1)
        body[f"norm{i}"] = nn.BatchNorm2d(w)
        body[f"relu{i}"] = nn.ReLU()
    body["conv4"] = nn.Conv2d(w, OUTPUTS, 1)
    return Deepen("stages.2.0", rule, block=nn.Sequential(body))


def scratch(size: Size) -> Arm:
    """The base network from scratch, with settings of its own.

    They are the paper's, unless `gnomon sweep` has found others for this size.
    """
    lr = size.numbers.get("scratch_lr", RECIPE.lr)
    decay = size.numbers.get("scratch_decay", RECIPE.weight_decay)
    return Arm(replace(sized(RECIPE, size), lr=lr, weight_decay=decay), base(size))


def sized(recipe: Recipe, size: Size, epochs: float | None = None) -> Recipe:
    """A recipe for a size, which says how many updates make an epoch."""
    count = size.epochs if epochs is None else int(epochs)
    return replace(recipe, epochs=count, steps=int(size.numbers["steps"]))


def transformed(size: Size, network: Network, morph: Widen | Deepen, share: float) -> Arm:
    """A network that is transformed after a share of its updates."""
    recipe = sized(RECIPE, size)
    step = round(share * size.epochs) * int(size.numbers["steps"])
    return Arm(recipe, network, schedule=At(morph, step=step), after=(BySize(),))


def sooner_or_later(size: Size, network: Network, morph: Widen | Deepen) -> dict[str, Arm]:
    """The same transform of a network at four moments, and the base network from scratch."""
    found = {name: transformed(size, network, morph, share) for name, share in MOMENTS.items()}
    return {**found, "scratch": scratch(size)}


def taught(
    size: Size, teacher: Network, morph: Callable[[R2R | RandPad], Widen | Deepen]
) -> dict[str, Arm]:
    """The teacher, a student per rule, and the base network from scratch."""

    def student(rule: R2R | RandPad) -> Arm:
        grown = At(morph(rule), step=0)
        return Arm(sized(RECIPE, size), start=Start("teacher"), schedule=grown, after=(BySize(),))

    return {
        "teacher": Arm(sized(RECIPE, size, size.numbers["teacher"]), teacher),
        "R2R": student(R2R()),
        "RandPad": student(RandPad()),
        "scratch": scratch(size),
    }
