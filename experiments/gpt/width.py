"""Does growing a language model pay? All of it 1.5 times as wide: stream, attention, feed-forward.

    gnomon run gpt/width --preset quick --data PATH    20 core-minutes, an estimate
    gnomon run gpt/width --preset paper --data PATH    2 core-hours, an estimate
    gnomon plot gpt/width --to docs/results

The stream stands under LayerNorm, where any width is reached by means of the old channels alone
(NetMorph with zero="writers", docs/normed-streams.md); the widths inside of the blocks grow by each
rule. RandPad, which keeps no function, draws all of it. Against the best that training the large
network from scratch reaches for each budget. Quick: budgets up to 4 epochs, 5 seeds; paper: 16.

Result: see docs/results/gpt-width.md.
"""

from functools import partial

from setting import DATA, PAPER, QUICK, Growing, frontier, large

from gnomon import R2R, Hybrid, Net2Net, NetMorph, RandPad, Widen
from gnomon.lab.experiment import Experiment

WRITERS = NetMorph(zero="writers")
INSIDE = [
    f"blocks.{i}.{name}"
    for i in range(2)
    for name in ("feed.0", "attention.values", "attention.queries[1]")
]
RULES = {"R2R": R2R(), "Net2Net": Net2Net(), "Hybrid": Hybrid()}
GROWING = Growing(
    large(width=48, hidden=192),
    share=0.493,
    morphs={
        **{
            name: [Widen("characters", by=1.5, rule=WRITERS), Widen(INSIDE, by=1.5, rule=rule)]
            for name, rule in RULES.items()
        },
        "NetMorph": Widen("*", by=1.5, rule=WRITERS),
        "RandPad": Widen("*", by=1.5, rule=RandPad()),
    },
)

EXPERIMENT = Experiment(
    name="gpt/width",
    about="A language model grows 1.5 times as wide, against training from scratch.",
    source="this project; the question of HyperCloning and 002 figure 5",
    arms=GROWING.arms,
    presets={"quick": QUICK, "paper": PAPER},
    data=DATA,
    x=("flops",),
    extra=partial(frontier, "gpt-width"),
)
