"""Figure 8 of "Deep Neuroevolution": a converged network gets a third stage.

The teacher, of two stages, is trained for 5,000 updates; its students have a third one, by
R2DeeperR or with random weights. The paper sees no difference between two stages and three. Its
base network from scratch had the students' reduced rate; here it has its own.

    gnomon run neuroevolution/deepen --preset quick --data PATH    17 core-minutes
    gnomon run neuroevolution/deepen --preset paper --data PATH    4 core-hours

Quick: 800 + 1,120 updates of networks half as wide, 3 seeds; paper: 5 seeds.

Result: see docs/results/neuroevolution-deepen.md.
"""

from collections.abc import Mapping
from functools import partial

from setting import CIFAR, SWEPT, deepened, short, taught

from gnomon.lab.experiment import Arm, Experiment, Size


def arms(size: Size) -> Mapping[str, Arm]:
    """The teacher, a student per rule, and the deep network from scratch."""
    return taught(size, short(size), partial(deepened, size=size))


EXPERIMENT = Experiment(
    name="neuroevolution/deepen",
    about="A converged network one stage deeper: does it learn on, and faster than from scratch?",
    source="Painter, Deep Neuroevolution, figure 8",
    arms=arms,
    presets={
        "quick": Size(epochs=7, numbers={"steps": 160, "width": 16, "teacher": 5, **SWEPT}),
        "paper": Size(
            epochs=14, numbers={"steps": 500, "width": 32, "teacher": 10}, seeds=range(5)
        ),
    },
    data=CIFAR,
    x=("step", "paper_flops"),
)
