"""Figure 9 of "Network Morphism": cifar_base, larger kernels (ksize), then wider (width).

The second layer of each group goes from 1x1 to 3x3, then the first gets twice the channels: by
NetMorph, and the last step by Net2Net too (which has no way to grow a kernel). Two opponents that
the paper does not show: "ksize longer" trains on without growing, and "width scratch" is the last
network from scratch with the FLOPs of the whole chain.

    gnomon run netmorph/width --preset quick --data PATH    10 core-minutes (2 epochs for each
                                                            network, a quarter as wide, 3 seeds)
    gnomon run netmorph/width --preset paper --data PATH    40 epochs each, 5 seeds: some 30
                                                            core-hours

Result: see docs/results/netmorph-width.md.
"""

from collections.abc import Mapping

from setting import DATA, RECIPE, network, scratch, sized

from gnomon import At, Enlarge, Net2Net, NetMorph, Widen
from gnomon.grower import Morph
from gnomon.lab.experiment import Arm, Experiment, Size, Start

SWEPT = {"scratch_lr": 3.3e-3, "scratch_decay": 2.7e-5}  # `gnomon sweep` on seed 100
GROUPS = [f"features.group{i}" for i in (1, 2, 3)]
KERNELS = [Enlarge(f"{group}.conv2", kernel=3) for group in GROUPS]
FIRSTS = [f"{group}.conv1" for group in GROUPS]


def arms(size: Size) -> Mapping[str, Arm]:
    """The chain, with two ways to widen, and its two opponents."""
    recipe = sized(RECIPE, size)

    def grown(before: str, *morphs: Morph) -> Arm:
        return Arm(recipe, start=Start(before, carry=True), schedule=At(morphs, epoch=0))

    return {
        "base": Arm(recipe, network("base", size)),
        "ksize": grown("base", *KERNELS),
        "width NetMorph": grown("ksize", Widen(FIRSTS, by=2, rule=NetMorph())),
        "width Net2Net": grown("ksize", Widen(FIRSTS, by=2, rule=Net2Net())),
        "ksize longer": Arm(recipe, start=Start("ksize", carry=True)),
        "width scratch": scratch(["base", "ksize", "width"], size),
    }


EXPERIMENT = Experiment(
    name="netmorph/width",
    about="Larger kernels, then more channels, each from the network before.",
    source="Wei et al., Network Morphism, figure 9",
    arms=arms,
    presets={
        "quick": Size(epochs=2, numbers={"width": 8, "faster": 3} | SWEPT),
        "paper": Size(epochs=40, numbers={"width": 32}, seeds=range(5)),
    },
    data=DATA,
    printed={
        "base": 0.8148, "ksize": 0.8281, "width NetMorph": 0.8309, "width Net2Net": 0.8270,
    },
    printed_as="test accuracy",
)  # fmt: skip
