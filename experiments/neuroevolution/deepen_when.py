"""Figure 7 of "Deep Neuroevolution": a network is deepened at 0, 1/4, 1/2 or 3/4 of its updates.

A network of two stages gets the third one by R2DeeperR. The paper sees curves even closer than for
widening: 180 s from scratch, then 153.2, 147.8 and 142.4 s. "At 0" has the reduced rate; "scratch"
is the base network at its own.

    gnomon run neuroevolution/deepen_when --preset quick --data PATH    18 core-minutes
    gnomon run neuroevolution/deepen_when --preset paper --data PATH    4 core-hours

Quick: 1,000 updates of networks half as wide, 3 seeds; paper: 5 seeds.

Result: see docs/results/neuroevolution-deepen_when.md.
"""

from collections.abc import Mapping

from setting import CIFAR, MOMENTS, SWEPT, deepened, short, sooner_or_later

from gnomon import R2R
from gnomon.lab.experiment import Arm, Experiment, Size


def arms(size: Size) -> Mapping[str, Arm]:
    """The same deepening at four moments, and the deep network from scratch."""
    return sooner_or_later(size, short(size), deepened(R2R(), size))


EXPERIMENT = Experiment(
    name="neuroevolution/deepen_when",
    about="Deepened sooner or later: the same accuracy for fewer FLOPs?",
    source="Painter, Deep Neuroevolution, figure 7",
    arms=arms,
    presets={
        "quick": Size(epochs=8, numbers={"steps": 125, "width": 16, **SWEPT}),
        "paper": Size(epochs=12, numbers={"steps": 500, "width": 32}, seeds=range(5)),
    },
    data=CIFAR,
    printed=dict.fromkeys(MOMENTS, 0.70),
    x=("step", "paper_flops"),
)
