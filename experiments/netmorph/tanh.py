"""Section 4.3 of "Network Morphism": cifar_base with TanH, its first layers twice as wide.

The paper reports about 4 % more than the parent, and that Net2Net cannot do it. It can: copies of
channels pass every activation that acts per entry, so the arm is here. "base longer" trains on
without growing and tells how much of the gain is the longer training; "scratch" is the wide network
from scratch with the FLOPs of both.

    gnomon run netmorph/tanh --preset quick --data PATH    9 core-minutes (2 epochs for each
                                                           network, a quarter as wide, 3 seeds)
    gnomon run netmorph/tanh --preset paper --data PATH    40 epochs each, 5 seeds: some 25
                                                           core-hours

Result: see docs/results/netmorph-tanh.md.
"""

from collections.abc import Mapping

from setting import DATA, RECIPE, network, scratch, sized
from torch import nn

from gnomon import At, Net2Net, NetMorph, Rule, Widen
from gnomon.lab.experiment import Arm, Experiment, Size, Start

SWEPT = {"scratch_lr": 2.6e-2, "scratch_decay": 5.8e-2}  # `gnomon sweep` on seed 100
FIRSTS = [f"features.group{i}.conv1" for i in (1, 2, 3)]


def arms(size: Size) -> Mapping[str, Arm]:
    """The parent, two ways to widen it, and two opponents."""
    recipe = sized(RECIPE, size)

    def grown(rule: Rule) -> Arm:
        widen = At(Widen(FIRSTS, by=2, rule=rule), epoch=0)
        return Arm(recipe, start=Start("base", carry=True), schedule=widen)

    return {
        "base": Arm(recipe, network("base", size, nn.Tanh)),
        "NetMorph": grown(NetMorph()),
        "Net2Net": grown(Net2Net()),
        "base longer": Arm(recipe, start=Start("base", carry=True)),
        "scratch": scratch(["base", "wide base"], size, nn.Tanh),
    }


EXPERIMENT = Experiment(
    name="netmorph/tanh",
    about="Twice the channels in a network with TanH.",
    source="Wei et al., Network Morphism, section 4.3",
    arms=arms,
    presets={
        "quick": Size(epochs=2, numbers={"width": 8, "faster": 3} | SWEPT),
        "paper": Size(epochs=40, numbers={"width": 32}, seeds=range(5)),
    },
    data=DATA,
)
