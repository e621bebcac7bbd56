"""Figure 7 of "R2R": a teacher that overfits leaves its student nothing to learn from.

A ResNetCifar-18(1/8) is trained without weight decay until its training loss is far below that of
validation. The paper finds that its student, widened by R2R, improves no further, while the large
network from scratch does. Overfitting takes long: at the quick size there is none to speak of.

    gnomon run r2r/overfit --preset quick --data PATH    10 core-minutes (8 epochs, 3 seeds)
    gnomon run r2r/overfit --preset paper --data PATH    8 core-hours (250 epochs, 5 seeds)

Result: see docs/results/r2r-overfit.md.
"""

from collections.abc import Mapping
from dataclasses import replace

from setting import DATA, NARROW, RECIPE, SWEPT, scratch

from gnomon import R2R, At, Widen
from gnomon.lab.experiment import Arm, Experiment, Size, Start

TEACHER = replace(RECIPE, lr=1e-3, weight_decay=0)  # the published code: lr 3e-3
STUDENT = replace(TEACHER, lr=TEACHER.lr / 5, weight_decay=3e-3)
SCRATCH = replace(TEACHER, weight_decay=3e-4)


def arms(size: Size) -> Mapping[str, Arm]:
    """The teacher, its student, and the large network from scratch."""
    teacher, student = (replace(recipe, epochs=size.epochs) for recipe in (TEACHER, STUDENT))
    widen = At(Widen("*", by=1.5, rule=R2R()), epoch=0)
    return {
        "teacher": Arm(teacher, NARROW),
        "R2R": Arm(student, start=Start("teacher"), schedule=widen),
        "scratch": scratch(SCRATCH, size),
    }


EXPERIMENT = Experiment(
    name="r2r/overfit",
    about="The student of a teacher that was left to overfit, against the large network.",
    source="Painter, R2R, figure 7",
    arms=arms,
    presets={"quick": Size(epochs=8, numbers=SWEPT[8]), "paper": Size(epochs=250, seeds=range(5))},
    data=DATA,
)
