"""Is growing worth it? Against the scratch frontier on CIFAR-10, ResNetCifar-18(1/8 -> 3/16).

    gnomon run frontier/cifar --data FOLDER
    gnomon plot frontier/cifar --to docs/results

`scratch@B`       the large network from scratch; B epochs are its whole training and its cosine
`given RULE@B`    a small network, trained for long, is at hand and costs nothing; it is widened
                  at once and trained for the FLOPs of B epochs of the large network
`midway RULE@B`   a tenth of these FLOPs trains the small network, which is then widened

Every training has warm-up and cosine over its own length. Learning rates: `gnomon sweep` on the
validation images of seed 100, see docs/results. Result: docs/results/frontier-cifar.md.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from setting import DATA, LARGE, SMALL, recipe, small_steps

from gnomon import R2R, At, Hybrid, Net2Net, NetMorph, RandPad, Widen
from gnomon.lab.experiment import Arm, Budget, Experiment, Size, Start
from gnomon.lab.results.frontier_page import Part, page

RULES = {
    "R2R": R2R(),
    "Net2Net": Net2Net(),
    "NetMorph": NetMorph(),
    "Hybrid": Hybrid(),
    "RandPad": RandPad(),
}
SCRATCH_LR = {1.25: 1.6e-2, 2.5: 1.6e-2, 5: 1.6e-2, 10: 3.2e-2, 20: 3.2e-2}  # by budget
SMALL_LR, GIVEN_LR, MIDWAY_LR = 1.6e-2, 1.6e-2, 3.2e-2
WHEN = 0.1  # share of the FLOPs before the growth in mid-training: the best of frontier/levers


def arms(size: Size) -> Mapping[str, Arm]:
    """The frontier, and for every rule both questions."""
    return {**scratch(size), **given(size), **midway(size)}


def scratch(size: Size) -> dict[str, Arm]:
    """The large network from scratch, for each budget."""
    budgets = [b for b in SCRATCH_LR if b <= size.epochs]
    return {
        f"scratch@{b:g}": Arm(recipe(SCRATCH_LR[b]), LARGE, budget=Budget(b, LARGE))
        for b in budgets
    }


def given(size: Size) -> dict[str, Arm]:
    """A small network is at hand: its FLOPs are not counted, its optimizer is gone."""
    found = {"small": Arm(replace(recipe(SMALL_LR), epochs=size.epochs), SMALL)}
    for name, rule in RULES.items():
        for b in size.numbers["given"]:
            found[f"given {name}@{b:g}"] = Arm(
                recipe(GIVEN_LR),
                start=Start("small"),
                schedule=At(Widen("*", by=1.5, rule=rule), epoch=0),
                budget=Budget(b, LARGE),
            )
    return found


def midway(size: Size) -> dict[str, Arm]:
    """One training with one cosine; the network is widened on the way, its optimizer along."""
    return {
        f"midway {name}@{b:g}": Arm(
            recipe(MIDWAY_LR),
            SMALL,
            schedule=At(Widen("*", by=1.5, rule=rule), step=small_steps(WHEN * b)),
            budget=Budget(b, LARGE),
        )
        for b in size.numbers["midway"]
        for name, rule in RULES.items()
    }


def frontier(runs: Path, out: Path) -> str:
    """The picture and the tables of both questions."""
    parts = (
        Part("A trained small network is at hand", "given", "ratio"),
        Part("Growing in mid-training, all FLOPs counted", "midway", "lead"),
    )
    return page(runs, out, name="frontier-cifar", parts=parts)


EXPERIMENT = Experiment(
    name="frontier/cifar",
    about="Growing against the best that training from scratch reaches for each budget of FLOPs.",
    source="this project; the question of HyperCloning, R2R figure 8 and 002 figure 5",
    arms=arms,
    presets={
        "quick": Size(5, range(3), {"given": (1.25, 2.5), "midway": (5,)}),
        "paper": Size(20, range(5), {"given": (1.25, 2.5, 5), "midway": (10,)}),
    },
    data=DATA,
    x=("flops",),
    extra=frontier,
)
