"""Does growing a language model pay? From two layers to four.

    gnomon run gpt/depth --preset quick --data PATH    20 core-minutes, an estimate
    gnomon run gpt/depth --preset paper --data PATH    1 core-hour, an estimate
    gnomon plot gpt/depth --to docs/results

Each layer is repeated once, right behind itself, or the second one twice ("behind"); the branches
of a copy end in twins that cancel (R2R). Net2Net's identity does not exist for attention. Against
the best that training the large network from scratch reaches for each budget. Quick: budgets up to
4 epochs, 5 seeds; paper: up to 16.

Result: see docs/results/gpt-depth.md.
"""

from functools import partial

from setting import DATA, PAPER, QUICK, Growing, frontier, large

from gnomon import Repeat
from gnomon.lab.experiment import Experiment

GROWING = Growing(
    large(layers=4),
    share=0.515,
    morphs={
        "R2R": [Repeat("blocks.0"), Repeat("blocks.2")],
        "R2R behind": Repeat("blocks.1", count=2),
    },
)

EXPERIMENT = Experiment(
    name="gpt/depth",
    about="A language model grows from two layers to four, against training from scratch.",
    source="this project; the question of HyperCloning and 002 figure 5",
    arms=GROWING.arms,
    presets={"quick": QUICK, "paper": PAPER},
    data=DATA,
    x=("flops",),
    extra=partial(frontier, "gpt-depth"),
)
