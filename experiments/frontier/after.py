"""What should happen to learning rate and optimizer at a growth? Options compared, all else equal.

    gnomon run frontier/after --data FOLDER
    gnomon plot frontier/after --to docs/results

ResNetCifar-18(1/8) on CIFAR-10, one cosine over the whole training; after a quarter of its FLOPs
the network is widened by 1.5 with R2R. The arms differ in `after=` alone; their learning rate
before the growth is the same. Result: docs/results/frontier-after.md.
"""

from collections.abc import Mapping, Sequence

from setting import DATA, LARGE, SMALL, STEPS, recipe, small_steps

from gnomon import R2R, At, ByGradient, BySize, DivideRate, NewWeights, ResetMoments, Rewarm, Widen
from gnomon.adjustments import Adjustment
from gnomon.lab.experiment import Arm, Budget, Experiment, Size

LR = 1.6e-2
AFTER: Mapping[str, Sequence[Adjustment]] = {
    "keep": (),
    "rate / 2": (DivideRate(2),),
    "rate / 5 (R2R)": (DivideRate(5),),
    "by size (002)": (BySize(),),
    "by root of size": (BySize(0.5),),
    "by gradient (002)": (ByGradient(),),
    "rewarm": (Rewarm(STEPS),),
    "new weights x 3": (NewWeights(rate=3.0),),
    "new weights, warm-up": (NewWeights(warmup=STEPS),),
    "new weights, no decay": (NewWeights(decay=0.0),),
    "fresh moments": (ResetMoments(),),
}


def arms(size: Size) -> Mapping[str, Arm]:
    """One arm per option."""
    schedule = At(Widen("*", by=1.5, rule=R2R()), step=small_steps(size.epochs / 4))
    budget = Budget(size.epochs, LARGE)
    return {
        name: Arm(recipe(LR), SMALL, schedule=schedule, after=after, budget=budget)
        for name, after in AFTER.items()
    }


EXPERIMENT = Experiment(
    name="frontier/after",
    about="Eleven answers to what happens to learning rate and optimizer at a growth.",
    source="this project; R2R section 5, 002 section C.3",
    arms=arms,
    presets={"quick": Size(4, range(3)), "paper": Size(20, range(5))},
    data=DATA,
    x=("flops",),
)
