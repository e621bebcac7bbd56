"""What an experiment is: arms to compare, in the sizes that machines can do. Pure declarations.

An experiment file says *what*; the command line says where, how often and how much:

    EXPERIMENT = Experiment(
        name="r2r/widen", about="...", source="Painter, R2R, figure 5 and table 2",
        arms=arms, presets={"quick": Size(epochs=6), "paper": Size(epochs=250)},
    )
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from gnomon.lab.data.sources import Data, Images
from gnomon.lab.errors import LabError
from gnomon.lab.training.recipe import Recipe
from gnomon.schedule import Schedule

Network = Callable[[Any], nn.Module]  # of the task; a network is for one kind of task
BASELINE = "scratch"  # the arm that the others are compared with, unless another is named


@dataclass(frozen=True)
class Start:
    """An arm that begins with the network of another one, once that is finished.

    carry: its optimizer goes along and what was spent on it counts (growth in mid-training);
           else the network is given, with a fresh optimizer, and the counters begin at 0.
    counts: what was spent on it stands behind this arm; no where it only has to be known.
    """

    arm: str
    carry: bool = False
    counts: bool = True


class Begun(Protocol):
    """An arm of any kind: for each seed it runs after the one that it starts from."""

    @property
    def start(self) -> Start | None:
        """Which one that is."""


@dataclass(frozen=True)
class Budget:
    """The FLOPs of training a network (forward + backward) for so many epochs.

    An arm that carries on from another one has that one's FLOPs already spent.
    """

    epochs: float
    network: Network


@dataclass(frozen=True)
class Arm:
    """One way to train.

    network:   the first network, drawn from the run's seed. None: that of the arm it starts from.
    schedule:  when it grows, in epochs or steps of this arm. after: as in `Timeline`.
    budget:    training ends when these FLOPs are spent, or with the recipe's epochs.
    snapshots: keep the network from right after each growth, `growth-1.safetensors`, and the final
               one, `final.safetensors`.
    tests:     look at the test split at the end (no for an arm that others only start from).
    blocks:    functions that make the blocks of its growths which a file cannot express, by name,
               as in `gn.load`: a run that goes on makes them anew.
    """

    recipe: Recipe
    network: Network | None = None
    start: Start | None = None
    schedule: Schedule | None = None
    after: Sequence[Any] = ()
    budget: Budget | None = None
    snapshots: bool = False
    tests: bool = True
    blocks: Mapping[str, Callable[..., nn.Module]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.network is None) == (self.start is None):
            raise ValueError("an arm has either a network or another arm to start from")


@dataclass(frozen=True)
class Size:
    """How large an experiment is made: epochs of a full training, seeds, and numbers of its own."""

    epochs: int
    seeds: Sequence[int] = (0, 1, 2)
    numbers: Mapping[str, Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """Several arms on the same data, with what the source printed for them.

    arms:     the arms in a size, by name, in the order in which they are shown.
    printed:  the source's own figures per arm, as shares (0.699), of `printed_as`.
    x:        what the picture's axis counts: epoch, step, flops, paper_flops or seconds.
    baseline: the arm that the others are compared with, seed by seed.
    extra:    draws and writes more into a folder, given the folder of the runs.
    """

    name: str
    about: str
    source: str
    arms: Callable[[Size], Mapping[str, Arm]]
    presets: Mapping[str, Size]
    data: Data = field(default_factory=Images)
    printed: Mapping[str, float] = field(default_factory=dict)
    printed_as: str = "validation accuracy"
    x: Sequence[str] = ("epoch", "flops")
    threads: int = 1
    baseline: str = BASELINE
    extra: Callable[[Path, Path], str | None] | None = None


@dataclass(frozen=True)
class Computed:
    """An experiment without training: it writes its page and its pictures into a folder."""

    name: str
    about: str
    source: str
    write: Callable[[Path], None]


def checked(arms: Mapping[str, Arm]) -> Mapping[str, Arm]:
    """Return the arms if each starts from one that stands before it; else `LabError`."""
    seen: dict[str, Arm] = {}
    for name, arm in arms.items():
        if arm.start is not None and arm.start.arm not in seen:
            raise LabError(
                f"The arm '{name}' cannot start from '{arm.start.arm}': no arm of that name stands "
                f"before it ({', '.join(seen) or 'it is the first'})."
            )
        if arm.start is not None and arm.start.carry:
            other = seen[arm.start.arm].recipe.optimizer
            if other != arm.recipe.optimizer:
                raise LabError(
                    f"The arm '{name}' cannot carry on with the optimizer of '{arm.start.arm}': "
                    f"that is {other}, its own is {arm.recipe.optimizer}."
                )
        seen[name] = arm
    return arms


def root(arms: Mapping[str, Arm], name: str) -> Network:
    """The first network of the row of arms that ends in this one."""
    network = _row(arms, name)[0].network
    assert network is not None  # an arm without a start has a network
    return network


def blocks_of(arms: Mapping[str, Arm], name: str) -> dict[str, Callable[..., nn.Module]]:
    """What makes the blocks that a file cannot express, in all arms of the row."""
    return {key: make for arm in _row(arms, name) for key, make in arm.blocks.items()}


def _row(arms: Mapping[str, Arm], name: str) -> list[Arm]:
    """The arm, behind those it starts from."""
    row = [arms[name]]
    while (start := row[0].start) is not None:
        row.insert(0, arms[start.arm])
    return row
