"""Figure 6 of "Deep Neuroevolution": a converged network is widened, after the tests of Net2Net.

The teacher, with half of the filters, is trained for 10,000 updates; its students have all filters
of the base network, by R2WiderR or with random new weights. In the paper R2WiderR converges at
about 3,000 updates, where the base network from scratch takes 7,000 to come up to the teacher; but
that one had the students' reduced rate, here it has its own.

    gnomon run neuroevolution/widen --preset quick --data PATH    17 core-minutes
    gnomon run neuroevolution/widen --preset paper --data PATH    4 core-hours

Quick: 1,600 + 1,120 updates of networks half as wide, 3 seeds; paper: 5 seeds.

Result: see docs/results/neuroevolution-widen.md.
"""

from collections.abc import Mapping

from setting import CIFAR, SWEPT, narrow, taught, widened

from gnomon.lab.experiment import Arm, Experiment, Size


def arms(size: Size) -> Mapping[str, Arm]:
    """The teacher, a student per rule, and the wide network from scratch."""
    return taught(size, narrow(size), widened)


EXPERIMENT = Experiment(
    name="neuroevolution/widen",
    about="A converged network twice as wide: does it learn on, and faster than from scratch?",
    source="Painter, Deep Neuroevolution, figure 6",
    arms=arms,
    presets={
        "quick": Size(epochs=7, numbers={"steps": 160, "width": 16, "teacher": 10, **SWEPT}),
        "paper": Size(
            epochs=14, numbers={"steps": 500, "width": 32, "teacher": 20}, seeds=range(5)
        ),
    },
    data=CIFAR,
    x=("step", "paper_flops"),
)
