"""Figure 8 of "R2R", deepened: does growing in mid-training save compute?

A ResNetCifar-10(3/16) gets eight more layers after a tenth of the epochs, and its rate is divided
by 5. Against epochs the grown networks lag behind the large one from scratch; the paper says that
against FLOPs they do not. (It grows at 25 of 250 epochs; its code at 40.) What the ways to deepen
are, and where they differ from the published code, is in deepen.py.

    gnomon run r2r/faster_deepen --preset quick --data PATH    9 core-minutes (4 epochs, 3 seeds)
    gnomon run r2r/faster_deepen --preset paper --data PATH    15 core-hours (250 epochs, 5 seeds)

Result: see docs/results/r2r-faster_deepen.md.
"""

from collections.abc import Mapping
from dataclasses import replace

from deepen import BLOCKS, LAYERS, PLAIN_LAYERS, RANDOM
from setting import DATA, RECIPE, SHORT, SWEPT, plain, scratch

from gnomon import At, Deepen, DivideRate
from gnomon.lab.experiment import Arm, Experiment, Network, Size

GROWN = replace(RECIPE, weight_decay=1e-2)
SCRATCH = replace(RECIPE, weight_decay=1e-2)


def arms(size: Size) -> Mapping[str, Arm]:
    """A grown network per way to deepen, and the large one from scratch."""
    return {
        "R2R": grown(size, BLOCKS),
        "RandPad": grown(size, RANDOM),
        "Net2Net": grown(size, LAYERS),
        "plain Net2Net": grown(size, PLAIN_LAYERS, plain(SHORT)),
        "scratch": scratch(SCRATCH, size),
    }


def grown(size: Size, deepen: list[Deepen], network: Network = SHORT) -> Arm:
    """The short network, deepened after a tenth of the epochs."""
    return Arm(
        replace(GROWN, epochs=size.epochs),
        network,
        schedule=At(deepen, epoch=max(1, size.epochs // 10)),
        after=(DivideRate(5),),
    )


EXPERIMENT = Experiment(
    name="r2r/faster_deepen",
    about="Deepening after a tenth of the training: slower by epochs; and by FLOPs?",
    source="Painter, R2R, figure 8",
    arms=arms,
    presets={"quick": Size(epochs=4, numbers=SWEPT[4]), "paper": Size(epochs=250, seeds=range(5))},
    data=DATA,
    x=("epoch", "paper_flops", "flops"),
)
