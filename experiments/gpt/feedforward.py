"""Does growing a language model pay? Its feed-forward networks alone, twice as wide.

    gnomon run gpt/feedforward --preset quick --data PATH    20 core-minutes, an estimate
    gnomon run gpt/feedforward --preset paper --data PATH    2 core-hours, an estimate
    gnomon plot gpt/feedforward --to docs/results

Against the best that training the large network from scratch reaches for each budget of FLOPs, as
frontier/cifar does it. Quick: budgets up to 4 epochs, 5 seeds; paper: up to 16.

Result: see docs/results/gpt-feedforward.md.
"""

from functools import partial

from setting import DATA, PAPER, QUICK, Growing, frontier, large

from gnomon import R2R, Hybrid, Net2Net, NetMorph, RandPad, Widen
from gnomon.lab.experiment import Experiment

RULES = {
    "R2R": R2R(),
    "Net2Net": Net2Net(),
    "NetMorph": NetMorph(),
    "Hybrid": Hybrid(),
    "RandPad": RandPad(),
}
GROWING = Growing(
    large(hidden=256),
    share=0.680,
    morphs={name: Widen("blocks.*.feed.0", by=2, rule=rule) for name, rule in RULES.items()},
)

EXPERIMENT = Experiment(
    name="gpt/feedforward",
    about="A language model's feed-forward networks grow, against training from scratch.",
    source="this project; the question of HyperCloning and 002 figure 5",
    arms=GROWING.arms,
    presets={"quick": QUICK, "paper": PAPER},
    data=DATA,
    x=("flops",),
    extra=partial(frontier, "gpt-feedforward"),
)
