"""What makes growing in mid-training better or worse? One lever at a time, at equal FLOPs.

    gnomon run frontier/levers --data FOLDER
    gnomon plot frontier/levers --to docs/results

All arms spend the same FLOPs, with one cosine over all of them, and end as ResNetCifar-18(3/16).
The base grows once, with R2R, after a quarter of the FLOPs.
Result: docs/results/frontier-levers.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from setting import DATA, LARGE, SHORT, SMALL, recipe, small_steps

from gnomon import At, Deepen, NewWeights, Widen
from gnomon.adjustments import Adjustment
from gnomon.lab.experiment import Arm, Budget, Experiment, Size
from gnomon.schedule import Schedule

LR = 1.6e-2
WIDEN, DEEPEN = Widen("*", by=1.5), [Deepen("stage1.1", count=2), Deepen("stage2.1", count=2)]


def arms(size: Size) -> Mapping[str, Arm]:
    """The base, the levers, and the large network from scratch."""
    budget = Budget(size.epochs, LARGE)

    def grown(schedule: Schedule, after: Sequence[Adjustment] = ()) -> Arm:
        return Arm(recipe(LR), SMALL, schedule=schedule, after=after, budget=budget)

    def at(share: float) -> int:
        return small_steps(share * size.epochs)

    base = grown(At(WIDEN, step=at(0.25)))
    twice = At(Widen("*", by=1.25), step=at(0.15)) + At(Widen("*", by=1.2), step=at(0.35))
    short = Arm(recipe(LR), SHORT, budget=budget)
    return {
        "at 1/10": grown(At(WIDEN, step=at(0.1))),
        "at 1/4": base,
        "at 1/2": grown(At(WIDEN, step=at(0.5))),
        "two growths": grown(twice),
        "width first": replace(short, schedule=At(WIDEN, step=at(0.2)) + At(DEEPEN, step=at(0.4))),
        "depth first": replace(short, schedule=At(DEEPEN, step=at(0.2)) + At(WIDEN, step=at(0.4))),
        "new weights x 3": grown(At(WIDEN, step=at(0.25)), (NewWeights(rate=3.0),)),
        "augmented": replace(base, recipe=recipe(LR, augment=True)),
        "scratch, augmented": Arm(recipe(LR, augment=True), LARGE, budget=budget),
        "scratch": Arm(recipe(LR), LARGE, budget=budget),
    }


EXPERIMENT = Experiment(
    name="frontier/levers",
    about="When to grow, how often, width or depth first, rate of new weights, augmentation.",
    source="this project",
    arms=arms,
    presets={"quick": Size(5, range(3)), "paper": Size(20, range(5))},
    data=DATA,
    x=("flops",),
)
