"""Figure 5 and the widening half of table 2 of "R2R": students grown from a converged teacher.

A ResNetCifar-18(1/8) is trained, then every width is multiplied by 1.5, to 18(3/16), and the
student trains on at a fifth of the rate. The figure asks whether it ends where the large network
ends that was trained from scratch.

* The paper takes the residual connections out for Net2WiderNet, since it draws a map per layer.
  With one map per coupled group it is exact with them too: the arm "Net2Net", beyond the paper.
* The published NetMorph arm pads BatchNorm with zeros before a ReLU: its new channels are dead for
  ever. Here readers are zero instead, and the new channels live.

    gnomon run r2r/widen --preset quick --data PATH    11 core-minutes (3 epochs, 3 seeds)
    gnomon run r2r/widen --preset paper --data PATH    23 core-hours (250 epochs, 5 seeds)

Result: see docs/results/r2r-widen.md.
"""

from collections.abc import Mapping
from dataclasses import replace

from setting import DATA, NARROW, RECIPE, SWEPT, plain, scratch

from gnomon import R2R, At, Net2Net, NetMorph, RandPad, Rule, Widen
from gnomon.lab.experiment import Arm, Experiment, Size, Start

TEACHER = RECIPE
STUDENT = replace(RECIPE, lr=RECIPE.lr / 5, weight_decay=1e-2)
SCRATCH = replace(RECIPE, weight_decay=1e-4)


def arms(size: Size) -> Mapping[str, Arm]:
    """Two teachers, a student per rule, and the large network from scratch."""
    teacher = replace(TEACHER, epochs=size.epochs)
    return {
        "teacher": Arm(teacher, NARROW),
        "plain teacher": Arm(teacher, plain(NARROW)),
        "R2R": student(size, R2R()),
        "NetMorph": student(size, NetMorph()),
        "RandPad": student(size, RandPad()),
        "Net2Net": student(size, Net2Net()),
        "plain Net2Net": student(size, Net2Net(), of="plain teacher"),
        "scratch": scratch(SCRATCH, size),
    }


def student(size: Size, rule: Rule, of: str = "teacher") -> Arm:
    """A teacher's network, 1.5 times as wide from the start."""
    widen = At(Widen("*", by=1.5, rule=rule), epoch=0)
    return Arm(replace(STUDENT, epochs=size.epochs), start=Start(of), schedule=widen)


EXPERIMENT = Experiment(
    name="r2r/widen",
    about="Students 1.5 times as wide as their teacher end where the large network ends.",
    source="Painter, R2R, figure 5 and table 2",
    arms=arms,
    presets={"quick": Size(epochs=3, numbers=SWEPT[3]), "paper": Size(epochs=250, seeds=range(5))},
    data=DATA,
    printed={
        "R2R": 0.699, "NetMorph": 0.698, "RandPad": 0.702, "plain Net2Net": 0.696,
        "scratch": 0.699,
    },
)  # fmt: skip
