"""What the experiments about growing a language model share: the text, the networks, the arms.

A GPT over the characters of Shakespeare (1.1 million, 65 different ones), 64 at once; small:
2 layers, 32 wide, 31,745 parameters. The last tenth of the text is the test split, another tenth,
which one depends on the seed, is for validation. AdamW, batches of 32; each training has a warm-up
and a cosine over its own length. Budgets are given in epochs of the large network.

`scratch@B`       the large network from scratch; B epochs are its whole training
`given RULE@B`    a small network, trained for long, is at hand and costs nothing; it is grown at
                  once and trained for the FLOPs of B epochs of the large one
`midway RULE@B`   a tenth of these FLOPs trains the small network, which is then grown
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import nn

from gnomon import At
from gnomon.grower import Morph
from gnomon.lab.data.sources import Text
from gnomon.lab.data.text import TextTask
from gnomon.lab.experiment import Arm, Budget, Network, Size, Start
from gnomon.lab.results.frontier_page import Part, page
from gnomon.lab.results.measures import LOSS
from gnomon.lab.training.recipe import Recipe
from gnomon.models import CharGPT

DATA = Text("tinyshakespeare", block=64)
UNTIL_SPENT = 10_000  # epochs: the budget ends a training before
STEPS = 435  # in an epoch of 13,942 pieces
WHEN = 0.1  # share of the FLOPs before the growth in mid-training, as in frontier/cifar
QUICK = Size(4, range(5), {"scratch": (0.5, 1, 2, 4), "given": (0.5, 1), "midway": (2,)})
PAPER = Size(16, range(5), {"scratch": (1, 2, 4, 8, 16), "given": (1, 2, 4), "midway": (8,)})


@dataclass(frozen=True)
class Rates:
    """Highest learning rates, by validation accuracy on seed 100; see docs/results.

    scratch: of the longest trainings, in epochs, and of all that are shorter.
    """

    scratch: Mapping[float, float]
    small: float
    given: float
    midway: float

    def of_scratch(self, budget: float) -> float:
        """The rate of a training from scratch of so many epochs."""
        return self.scratch[min(most for most in self.scratch if budget <= most)]


RATES = Rates(scratch={1: 5e-2, 16: 3e-2}, small=3e-2, given=5e-3, midway=3e-2)


@dataclass(frozen=True)
class Growing:
    """A way to make the small network larger, by every rule that can.

    large: the network that comes out. share: of its FLOPs, what a step of the small one takes.
    """

    large: Network
    share: float
    morphs: Mapping[str, Morph | list[Morph]]

    def arms(self, size: Size) -> Mapping[str, Arm]:
        """The frontier, and for every rule both questions."""
        return {**self.scratch(size), **self.given(size), **self.midway(size)}

    def scratch(self, size: Size) -> dict[str, Arm]:
        """The large network from scratch, for each budget."""
        return {
            f"scratch@{b:g}": Arm(
                recipe(RATES.of_scratch(b)), self.large, budget=Budget(b, self.large)
            )
            for b in size.numbers["scratch"]
        }

    def given(self, size: Size) -> dict[str, Arm]:
        """A small network is at hand: its FLOPs are not counted, its optimizer is gone."""
        found = {"small": Arm(replace(recipe(RATES.small), epochs=size.epochs), SMALL)}
        for name, morph in self.morphs.items():
            for b in size.numbers["given"]:
                found[f"given {name}@{b:g}"] = Arm(
                    recipe(RATES.given),
                    start=Start("small"),
                    schedule=At(morph, epoch=0),
                    budget=Budget(b, self.large),
                )
        return found

    def midway(self, size: Size) -> dict[str, Arm]:
        """One training with one cosine; the network grows on the way, its optimizer along."""
        return {
            f"midway {name}@{b:g}": Arm(
                recipe(RATES.midway),
                SMALL,
                schedule=At(morph, step=round(WHEN * b * STEPS / self.share)),
                budget=Budget(b, self.large),
            )
            for b in size.numbers["midway"]
            for name, morph in self.morphs.items()
        }


def gpt(task: TextTask, *, width: int = 32, layers: int = 2, hidden: int = 128) -> nn.Module:
    """A CharGPT with four heads for a text."""
    return CharGPT(task.classes, width=width, layers=layers, hidden=hidden, block=task.block)


SMALL: Network = gpt


def large(**sizes: int) -> Network:
    """The same with other sizes."""
    return partial(gpt, **sizes)


def recipe(lr: float) -> Recipe:
    """AdamW at this highest rate, as long as the budget lasts."""
    return Recipe(UNTIL_SPENT, batch=32, lr=lr, weight_decay=5e-2)


def frontier(name: str, runs: Path, out: Path) -> str:
    """The picture and the tables of both questions, by the loss on the test split."""
    parts = (
        Part("A trained small network is at hand", "given", "ratio"),
        Part("Growing in mid-training, all FLOPs counted", "midway", "lead"),
    )
    return page(runs, out, name=name, parts=parts, measure=LOSS)
