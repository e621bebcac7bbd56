"""What a contest is: searches, what is made of their members, and networks trained alone.

    arms = {
        "search": Search(Best(), Settings(rounds=4)),
        "average": Ensemble("search", "average"),
        "largest alone": Alone(recipe, like="search", network="largest"),
    }

Pure declarations, as in `lab.experiment`; an arm runs once for each seed, after the one that it
starts from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from gnomon.evolution import Selection, Settings
from gnomon.lab.data.sources import Data, Images
from gnomon.lab.errors import LabError
from gnomon.lab.experiment import BASELINE, Size, Start
from gnomon.lab.training.recipe import Recipe


@dataclass(frozen=True)
class Search:
    """A search among stages of R2R blocks; its result is the member best on validation images.

    like: another search: when the FLOPs that it took are spent, this one is over, or with its own
          rounds. None: with its rounds.
    batch, lr, weight_decay: of Adam.
    """

    select: Selection
    settings: Settings
    like: str | None = None
    batch: int = 32
    lr: float = 3e-3
    weight_decay: float = 1e-6

    @property
    def start(self) -> Start | None:
        """The search that it waits for."""
        return _knows(self.like)


@dataclass(frozen=True)
class Ensemble:
    """Members of a search as one network.

    join:  "hierarchical": a network on top of the selected members, which is trained on training
           images, they are not; "average": of the selected ones; "greedy": an average of those of
           all that are best together on validation images.
    steps, batch, lr: of the training on top, with Adam.
    """

    of: str
    join: Literal["hierarchical", "average", "greedy"]
    steps: int = 0
    batch: int = 32
    lr: float = 3e-3

    def __post_init__(self) -> None:
        if (self.join == "hierarchical") != (self.steps > 0):
            raise ValueError(f"a top is trained for steps, nothing else is: {self}")

    @property
    def start(self) -> Start:
        """The search whose members they are."""
        return Start(self.of)


@dataclass(frozen=True)
class Alone:
    """A network of the search's space that is trained by itself.

    like:    a search: this one gets as many FLOPs, and its recipe's epochs are of no account but
             for the most that there may be. None: the recipe says how long.
    network: the "base" of the search, or the "largest" member of its last round, drawn anew.
    sampled: look at the test images after every epoch, and take the best: what nobody may do but
             a baseline that is to be hard to beat.
    """

    recipe: Recipe
    like: str | None = None
    network: Literal["base", "largest"] = "base"
    sampled: bool = False

    def __post_init__(self) -> None:
        if self.network == "largest" and self.like is None:
            raise ValueError("the largest member of which search? Say like=")

    @property
    def start(self) -> Start | None:
        """The search that it waits for."""
        return _knows(self.like)


Entry = Search | Ensemble | Alone


def _knows(name: str | None) -> Start | None:
    """After another arm, of which it has nothing but the knowledge of what it took."""
    return None if name is None else Start(name, counts=False)


@dataclass(frozen=True)
class Contest:
    """Arms that are searches, or answer to one, on the same data.

    arms:     in a size, by name, in the order in which they are shown.
    printed:  the source's own figures per arm, as shares (0.74), of `printed_as`.
    baseline: the arm that the others are compared with, seed by seed.
    """

    name: str
    about: str
    source: str
    arms: Callable[[Size], Mapping[str, Entry]]
    presets: Mapping[str, Size]
    data: Data = field(default_factory=Images)
    printed: Mapping[str, float] = field(default_factory=dict)
    printed_as: str = "test accuracy"
    baseline: str = BASELINE
    threads: int = 1


def checked(arms: Mapping[str, Entry]) -> Mapping[str, Entry]:
    """Return the arms if each answers to a search that stands before it; else `LabError`."""
    searches: list[str] = []
    for name, arm in arms.items():
        if arm.start is not None and arm.start.arm not in searches:
            raise LabError(
                f"The arm '{name}' cannot follow '{arm.start.arm}': no search of that name stands "
                f"before it ({', '.join(searches) or 'there is none'})."
            )
        if isinstance(arm, Search):
            searches.append(name)
    return arms
