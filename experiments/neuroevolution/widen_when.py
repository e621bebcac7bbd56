"""Figure 5 of "Deep Neuroevolution": a network is widened at 0, 1/4, 1/2 or 3/4 of its updates.

The teacher has half of the filters of the base network and becomes that by R2WiderR. The paper sees
all of them end near 70 %, the sooner in seconds the later they were widened: 180 s from scratch,
164.0, 147.3 and 135.7 s. "At 0" is its "from scratch", at the reduced rate; "scratch" is the base
network at its own.

    gnomon run neuroevolution/widen_when --preset quick --data PATH    18 core-minutes
    gnomon run neuroevolution/widen_when --preset paper --data PATH    4 core-hours

Quick: 1,000 updates of networks half as wide, 3 seeds; paper: 5 seeds.

Result: see docs/results/neuroevolution-widen_when.md.
"""

from collections.abc import Mapping

from setting import CIFAR, MOMENTS, SWEPT, narrow, sooner_or_later, widened

from gnomon import R2R
from gnomon.lab.experiment import Arm, Experiment, Size


def arms(size: Size) -> Mapping[str, Arm]:
    """The same widening at four moments, and the wide network from scratch."""
    return sooner_or_later(size, narrow(size), widened(R2R()))


EXPERIMENT = Experiment(
    name="neuroevolution/widen_when",
    about="Widened sooner or later: the same accuracy for fewer FLOPs?",
    source="Painter, Deep Neuroevolution, figure 5",
    arms=arms,
    presets={
        "quick": Size(epochs=8, numbers={"steps": 125, "width": 16, **SWEPT}),
        "paper": Size(epochs=12, numbers={"steps": 500, "width": 32}, seeds=range(5)),
    },
    data=CIFAR,
    printed=dict.fromkeys(MOMENTS, 0.70),
    x=("step", "paper_flops"),
)
