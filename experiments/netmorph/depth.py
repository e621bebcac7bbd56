"""Figure 8 of "Network Morphism": cifar_111 -> 211 -> 222 -> 2222 -> 3333, each from the last one.

* NetMorph makes several layers of one (`Factor`), through ReLU by antisymmetric pairs where there
  are enough channels, else by a P-activation. One 1x1 layer of 222 is first split as (1x1, 5x5), so
  that a new subnet begins behind it; the 3x3 layers of 3333 come out of the 1x1 layers behind them
  (out of the 5x5 layers in front, at equal widths, the equations are too badly conditioned for
  float32).
* Net2Net (to 222, as in the paper) puts in an identity layer and copies channels. The paper sees
  two peaks in the histogram of its new filters; a picture shows ours beside NetMorph's.
* Scratch ("Raw" in the paper): the same networks, each with the FLOPs of the whole chain up to it.

    gnomon run netmorph/depth --preset quick --data PATH    10 core-minutes (1 epoch for each
                                                            network, an eighth as wide, 3 seeds)
    gnomon run netmorph/depth --preset paper --data PATH    40 epochs each, 5 seeds: some 200
                                                            core-hours, for a GPU

Result: see docs/results/netmorph-depth.md.
"""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path

from setting import DATA, RECIPE, network, scratch, sized
from torch import nn

from gnomon import At, Deepen, Factor, Net2Net, Widen
from gnomon.grower import Morph
from gnomon.lab.drawing.grids import histogram_panels
from gnomon.lab.experiment import Arm, Experiment, Size, Start
from gnomon.lab.training.probes import histogram, snapshot

SWEPT = {"scratch_lr": 3.3e-3, "scratch_decay": 2.7e-5}  # `gnomon sweep` of 3333, seed 100
CHAIN = ["111", "211", "222", "2222", "3333"]
PICTURE = "netmorph-depth-histograms.png"
ONE, TWO, THREE = (f"features.group{i}" for i in (1, 2, 3))
EMBEDDED = {  # the 1x1 layer that 222 has and 211 has not, in the third group
    "NetMorph": f"{THREE}.conv1.layer2.weight",
    "Net2Net": f"{THREE}.act1_deeper.0.weight",
}


def netmorph(w: int) -> dict[str, list[Morph]]:
    """To each network from the one before, by making several layers of one."""
    relu = nn.ReLU()
    return {
        "211": [Factor(f"{ONE}.conv1", 4 * w, (5, 1), relu)],
        "222": [
            Factor(f"{TWO}.conv1", 4 * w, (5, 1), relu),
            Factor(f"{THREE}.conv1", 8 * w, (5, 1), relu),
        ],
        "2222": [
            Factor(f"{THREE}.conv1.layer2", 2 * w, (1, 5), relu),
            Factor(f"{THREE}.conv1.layer2.layer2", 8 * w, (5, 1), relu),
        ],
        "3333": [
            Factor(f"{ONE}.conv1.layer2", 4 * w, (3, 1), relu),
            Factor(f"{TWO}.conv1.layer2", 4 * w, (3, 1), relu),
            Factor(f"{THREE}.conv1.layer2.layer1", 8 * w, (3, 1), relu),
            Factor(f"{THREE}.conv1.layer2.layer2.layer2", 8 * w, (3, 1), relu),
        ],
    }


def net2net(w: int) -> dict[str, list[Morph]]:
    """To 211 and 222: identity layers of 1x1, then four times the channels before them."""
    return {
        "211": [*_identity(ONE, w)],
        "222": [*_identity(TWO, w), *_identity(THREE, 2 * w)],
    }


def _identity(group: str, channels: int) -> Iterator[Morph]:
    layer = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.ReLU())
    yield Deepen(f"{group}.act1", Net2Net(), block=layer)
    yield Widen(f"{group}.conv1", by=4, rule=Net2Net())


def arms(size: Size) -> Mapping[str, Arm]:
    """The first network, a chain of growths per method, and every network from scratch."""
    recipe, width = sized(RECIPE, size), int(size.numbers["width"])
    found = {"111": Arm(recipe, network("111", size))}
    for method, steps in {"NetMorph": netmorph(width), "Net2Net": net2net(width)}.items():
        for before, after in pairwise(["111", *steps]):
            found[f"{after} {method}"] = Arm(
                recipe,
                start=Start(before if before == "111" else f"{before} {method}", carry=True),
                schedule=At(steps[after], epoch=0),
                snapshots=after == "222",
            )
    for count, name in enumerate(CHAIN[1:], 2):
        found[f"{name} scratch"] = scratch(CHAIN[:count], size)
    return found


def draw(runs: Path, out: Path) -> str:
    """Draw how the entries of the embedded filters are spread right after the morph to 222."""
    panels = {
        method: histogram(name, snapshot(runs, f"222 {method}", "growth", name), bins=31)
        for method, name in EMBEDDED.items()
    }
    histogram_panels(panels, out / PICTURE, title="The 1x1 layer that was embedded for cifar_222")
    return f"## The embedded filters\n\n![Histograms of the new 1x1 layer]({PICTURE})"


EXPERIMENT = Experiment(
    name="netmorph/depth",
    about="From three convolutions to twelve in four growths, against training from scratch.",
    source="Wei et al., Network Morphism, figure 8",
    arms=arms,
    presets={
        "quick": Size(epochs=1, numbers={"width": 4, "faster": 3} | SWEPT),
        "paper": Size(epochs=40, numbers={"width": 32}, seeds=range(5)),
    },
    data=DATA,
    printed={
        "111": 0.7815, "211 NetMorph": 0.8206, "222 NetMorph": 0.8243, "2222 NetMorph": 0.8314,
        "3333 NetMorph": 0.84, "211 Net2Net": 0.8121, "222 Net2Net": 0.8199,
    },
    printed_as="test accuracy",
    extra=draw,
)  # fmt: skip
