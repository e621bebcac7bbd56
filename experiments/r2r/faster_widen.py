"""Figure 8 of "R2R", widened: does growing in mid-training save compute?

A ResNetCifar-18(1/8) becomes an 18(3/16) after a tenth of the epochs, and its rate is divided by 5.
Against epochs the grown networks lag behind the large one from scratch; the paper says that against
FLOPs they do not. (It grows at 25 of 250 epochs; its code at 28.)

    gnomon run r2r/faster_widen --preset quick --data PATH    11 core-minutes (4 epochs, 3 seeds)
    gnomon run r2r/faster_widen --preset paper --data PATH    18 core-hours (250 epochs, 5 seeds)

Result: see docs/results/r2r-faster_widen.md.
"""

from collections.abc import Mapping
from dataclasses import replace

from setting import DATA, NARROW, RECIPE, SWEPT, plain, scratch

from gnomon import R2R, At, DivideRate, Net2Net, NetMorph, RandPad, Rule, Widen
from gnomon.lab.experiment import Arm, Experiment, Network, Size

GROWN = replace(RECIPE, weight_decay=1e-2)
SCRATCH = replace(RECIPE, weight_decay=1e-2)


def arms(size: Size) -> Mapping[str, Arm]:
    """A grown network per rule, and the large one from scratch."""
    return {
        "R2R": grown(size, R2R()),
        "NetMorph": grown(size, NetMorph()),
        "RandPad": grown(size, RandPad()),
        "Net2Net": grown(size, Net2Net()),
        "plain Net2Net": grown(size, Net2Net(), plain(NARROW)),
        "scratch": scratch(SCRATCH, size),
    }


def grown(size: Size, rule: Rule, network: Network = NARROW) -> Arm:
    """The narrow network, widened after a tenth of the epochs."""
    return Arm(
        replace(GROWN, epochs=size.epochs),
        network,
        schedule=At(Widen("*", by=1.5, rule=rule), epoch=max(1, size.epochs // 10)),
        after=(DivideRate(5),),
    )


EXPERIMENT = Experiment(
    name="r2r/faster_widen",
    about="Widening after a tenth of the training: slower by epochs; and by FLOPs?",
    source="Painter, R2R, figure 8 (widening, which it omits for space)",
    arms=arms,
    presets={"quick": Size(epochs=4, numbers=SWEPT[4]), "paper": Size(epochs=250, seeds=range(5))},
    data=DATA,
    x=("epoch", "paper_flops", "flops"),
)
