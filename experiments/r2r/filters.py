"""Figure 4 of "R2R": what the filters of a first layer look like when it is widened, and after.

A SmallConv (7x7 convolution of 16 filters) is trained; then it gets 16 more by R2R, by Net2Net or
by NetMorph and trains on. The picture shows all 32 right after the widening and at the end: R2R's
twins, side by side and alike at first, part; Net2Net's copies keep the look of their originals. The
new filters of the paper's NetMorph stay faint. Its published code draws new weights at a fraction
of the spread of the old ones, a likely cause; here the spreads match. (In a first trial at the
quick size new filters of R2R and of NetMorph faded all the same: weight decay outdid gradients.)

    gnomon run r2r/filters --preset quick --data PATH    11 core-minutes (4 + 3 epochs, 3 seeds)
    gnomon run r2r/filters --preset paper --data PATH    36 core-hours (150 + 450 epochs, 5 seeds)

Result: see docs/results/r2r-filters.md.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from setting import DATA, RECIPE
from torch import nn

from gnomon import R2R, At, Net2Net, NetMorph, Rule, Widen
from gnomon.lab.data.tasks import ImageTask
from gnomon.lab.drawing.grids import Filters, filter_grids
from gnomon.lab.experiment import Arm, Experiment, Size, Start
from gnomon.lab.training.probes import snapshot
from gnomon.models import SmallConv

LAYER, OLD = "features.conv", 16
PICTURE = "r2r-filters-grids.png"
RULES: Mapping[str, Rule] = {"R2R": R2R(), "Net2Net": Net2Net(), "NetMorph": NetMorph()}
FILTERS = replace(RECIPE, lr=1e-3, weight_decay=1e-3)  # before the widening and after it


def network(task: ImageTask) -> nn.Module:
    """The paper's SmallConv."""
    side = task.train.inputs.shape[-1]
    return SmallConv(OLD, classes=task.classes, channels=task.channels, size=side)


def arms(size: Size) -> Mapping[str, Arm]:
    """One training of the small network, which goes on by each rule."""
    before = replace(FILTERS, epochs=int(size.numbers["before"]))
    after = replace(FILTERS, epochs=size.epochs)
    return {"before": Arm(before, network)} | {
        name: Arm(
            after,
            start=Start("before", carry=True),
            schedule=At(Widen(LAYER, add=OLD, rule=rule), epoch=0),
            snapshots=True,
        )
        for name, rule in RULES.items()
    }


def draw(runs: Path, out: Path) -> str:
    """Draw the filters of the first seed: a row per moment, a column per rule."""
    moments = {"right after the widening": "growth", "after training on": "final"}
    rows = [
        [Filters(name, snapshot(runs, name, moment, f"{LAYER}.weight"), OLD) for name in RULES]
        for moment in moments.values()
    ]
    filter_grids(rows, out / PICTURE, title="Sixteen 7x7 filters and sixteen more", rows=[*moments])
    return f"## Filters\n\n![First-layer filters, old and new, by three rules]({PICTURE})"


EXPERIMENT = Experiment(
    name="r2r/filters",
    about="First-layer filters, old and new, right after a widening and after training on.",
    source="Painter, R2R, figure 4",
    arms=arms,
    presets={
        "quick": Size(epochs=3, numbers={"before": 4}),
        "paper": Size(epochs=450, numbers={"before": 150}, seeds=range(5)),
    },
    data=DATA,
    extra=draw,
)
