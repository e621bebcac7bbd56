"""Figure 9 of "R2R": new weights drawn by He's rule against the spread of the weights beside them.

A ResNetCifar-18(1/8) is widened by R2R at 20 of 120 epochs, and its rate is divided by 5. He's
start is meant for a network that has not learned: there it is much larger than the trained weights
are, and the paper sees training become unstable. ("matched" is what R2R does unless told
otherwise. The published code's match_std is something else: 1e-2 or less of it.)

    gnomon run r2r/start --preset quick --data PATH    11 core-minutes (12 epochs, 3 seeds)
    gnomon run r2r/start --preset paper --data PATH    3 core-hours (120 epochs, 5 seeds)

Result: see docs/results/r2r-start.md.
"""

from collections.abc import Mapping
from dataclasses import replace

from setting import DATA, NARROW, RECIPE

from gnomon import R2R, At, DivideRate, Rule, Widen
from gnomon.lab.experiment import Arm, Experiment, Size

GROWN = replace(RECIPE, lr=1e-3, weight_decay=1e-3)  # the published code: lr 3e-3


def arms(size: Size) -> Mapping[str, Arm]:
    """The same growth with two spreads of the new weights."""
    return {"matched": grown(size, R2R()), "He": grown(size, R2R(init="he"))}


def grown(size: Size, rule: Rule) -> Arm:
    """The narrow network, widened after a sixth of the epochs."""
    return Arm(
        replace(GROWN, epochs=size.epochs),
        NARROW,
        schedule=At(Widen("*", by=1.5, rule=rule), epoch=max(1, size.epochs // 6)),
        after=(DivideRate(5),),
    )


EXPERIMENT = Experiment(
    name="r2r/start",
    about="How large new weights may be: He's start against the spread of their neighbours.",
    source="Painter, R2R, figure 9 and appendix D",
    arms=arms,
    presets={"quick": Size(epochs=12), "paper": Size(epochs=120, seeds=range(5))},
    data=DATA,
    x=("epoch",),
)
