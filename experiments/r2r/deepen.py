"""Figure 6 and the deepening half of table 2 of "R2R": students grown from a converged teacher.

A ResNetCifar-10(3/16) is trained, then eight layers are put in, four behind each stage, and the
student trains on at a fifth of the rate.

* R2DeeperR puts in residual blocks that start at zero. Unlike in the paper no BatchNorm stands
  behind the layer that cancels: it would divide by a spread of zero and be as loud as its input
  after one step. So the student has 52,126 parameters, 72 fewer than ResNetCifar-18(3/16).
* Net2DeeperNet puts in layers that start as the identity: as in the paper in a network without
  residual connections, and beyond it, as the arm "Net2Net", in one that has them. The published
  code sets the new BatchNorms from statistics of before the insertion, which changes the output by
  0.76; here they are measured behind it, and the function is kept in eval mode.

    gnomon run r2r/deepen --preset quick --data PATH    9 core-minutes (3 epochs, 3 seeds)
    gnomon run r2r/deepen --preset paper --data PATH    19 core-hours (250 epochs, 5 seeds)

Result: see docs/results/r2r-deepen.md.
"""

from collections.abc import Mapping
from dataclasses import replace

from setting import DATA, RECIPE, SHORT, SWEPT, plain, scratch

from gnomon import R2R, At, Deepen, Net2Net, RandPad
from gnomon.lab.experiment import Arm, Experiment, Size, Start

TEACHER = RECIPE
STUDENT = replace(RECIPE, lr=RECIPE.lr / 5, weight_decay=1e-2)
SCRATCH = replace(RECIPE, weight_decay=1e-4)

STAGES = ("stage1.1", "stage2.1")  # the last block of each
BLOCKS = [Deepen(stage, R2R(), count=2) for stage in STAGES]
RANDOM = [Deepen(stage, RandPad(), count=2) for stage in STAGES]
LAYERS = [Deepen(stage, Net2Net(), count=4) for stage in STAGES]
PLAIN_LAYERS = [Deepen(f"{stage}.relu2", Net2Net(), count=4) for stage in STAGES]


def arms(size: Size) -> Mapping[str, Arm]:
    """Two teachers, a student per way to deepen, and the large network from scratch."""
    teacher = replace(TEACHER, epochs=size.epochs)
    return {
        "teacher": Arm(teacher, SHORT),
        "plain teacher": Arm(teacher, plain(SHORT)),
        "R2R": student(size, BLOCKS),
        "RandPad": student(size, RANDOM),
        "Net2Net": student(size, LAYERS),
        "plain Net2Net": student(size, PLAIN_LAYERS, of="plain teacher"),
        "scratch": scratch(SCRATCH, size),
    }


def student(size: Size, deepen: list[Deepen], of: str = "teacher") -> Arm:
    """A teacher's network, eight layers deeper from the start."""
    recipe = replace(STUDENT, epochs=size.epochs)
    return Arm(recipe, start=Start(of), schedule=At(deepen, epoch=0))


EXPERIMENT = Experiment(
    name="r2r/deepen",
    about="Students eight layers deeper than their teacher end where the large network ends.",
    source="Painter, R2R, figure 6 and table 2",
    arms=arms,
    presets={"quick": Size(epochs=3, numbers=SWEPT[3]), "paper": Size(epochs=250, seeds=range(5))},
    data=DATA,
    printed={"R2R": 0.721, "RandPad": 0.715, "plain Net2Net": 0.705, "scratch": 0.699},
)
