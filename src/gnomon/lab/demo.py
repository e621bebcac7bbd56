"""The main job: grow a network in mid-training, and train the large one from scratch beside it.

    small    ━━━━━━━━━━━━━━━━━━━━━━━━   the small network, never grown: what growing is worth
    grown    ━━━━━━━━━━━━┻━━━━━━━━━━━   the same until half of the epochs, then wider and deeper
    scratch  ━━━━━━━━━━━━━━━━━━━━━━━━   the large network from its own fresh start

All arms have the same recipe, the same epochs and the same batches in the same order.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path

import torch
from torch import nn

from gnomon.checkpoint import save
from gnomon.lab.arms import Observer, Outcome, Stage
from gnomon.lab.data.tasks import ImageTask, load
from gnomon.lab.drawing import plots
from gnomon.lab.running.record import Record, one_line, signature
from gnomon.lab.training.machine import Machine
from gnomon.lab.training.recipe import Recipe
from gnomon.lab.training.starts import fresh, seeded
from gnomon.models import DigitsNet, ResNetCifar18
from gnomon.morphs import Deepen, Widen
from gnomon.rules.names import RULES, layers_beside
from gnomon.schedule import At, Timeline

NAMES = tuple(name for name in RULES if name != "isometry")  # no stream here is under a norm


@dataclass(frozen=True)
class Settings:
    """What the user chooses; None stands for the default that fits the data."""

    data: str = "digits"
    rule: str = "r2r"
    epochs: int | None = None
    seed: int = 0
    device: str = "auto"
    out: Path | None = None
    by: float | None = None


@dataclass(frozen=True)
class Preset:
    """What fits a kind of images: the small network, its recipe, how much wider, where deeper.

    threads: of torch on the CPU, None to leave them; those of a tiny network only wait for each
    other, at worst for a minute per arm.
    """

    small: Callable[[ImageTask], nn.Module]
    recipe: Recipe
    by: float
    deeper: tuple[str, ...]
    threads: int | None = None


def preset(task: ImageTask) -> Preset:
    """Choose by the images: a tiny DigitsNet for grey ones, ResNetCifar18(1/8) for colour."""
    if task.channels == 1:
        chosen = Preset(_digits_net, Recipe(epochs=8), by=4.0, deeper=("stage1", "stage2"))
        if task.name == "digits":
            recipe = replace(chosen.recipe, epochs=60, batch=32)
            return replace(chosen, recipe=recipe, threads=1)
        return chosen
    return Preset(_resnet_cifar, Recipe(epochs=10), by=1.5, deeper=("stage1.3", "stage2.3"))


def _digits_net(task: ImageTask) -> nn.Module:
    return DigitsNet(2, classes=task.classes)


def _resnet_cifar(task: ImageTask) -> nn.Module:
    return ResNetCifar18(Fraction(1, 8), classes=task.classes, channels=task.channels)


@dataclass(frozen=True)
class Comparison:
    """What the demo found. `budget`: the FLOPs that both the grown and the scratch arm reached."""

    small: Outcome
    grown: Outcome
    scratch: Outcome
    budget: int
    data: str
    folder: Path
    signature: str

    @property
    def arms(self) -> tuple[Outcome, Outcome, Outcome]:
        """All arms in the order in which they ran."""
        return self.small, self.grown, self.scratch


def run(settings: Settings, observer: Observer) -> Comparison:
    """Run the three arms and leave metrics, signature, receipt, picture and checkpoint behind."""
    task = load(settings.data, seed=settings.seed)
    record = _record(settings, task.name)
    chosen = preset(task)
    epochs = chosen.recipe.epochs if settings.epochs is None else settings.epochs
    by = chosen.by if settings.by is None else settings.by
    recipe = replace(chosen.recipe, epochs=epochs, seed=settings.seed)
    rule = RULES[settings.rule]()
    depth = layers_beside(settings.rule)
    deeper = Deepen(chosen.deeper, rule=depth)
    growth = At([Widen("*", by=by, rule=rule), deeper], epoch=epochs // 2)
    with _threads(chosen.threads):
        facts = signature(**_arguments(settings, task, recipe, by))
        record.json("signature.json", facts)
        stage = Stage(task, recipe, Machine(settings.device), record, observer)
        small, grown, scratch = _arms(stage, chosen, Timeline(growth, settings.seed))
    budget = min(grown.points[-1].flops, scratch.points[-1].flops)
    found = Comparison(small, grown, scratch, budget, task.name, record.folder, one_line(facts))
    _leave(found, record, f"{by:g}x wider, {len(chosen.deeper)} blocks deeper")
    return found


def _arms(stage: Stage, chosen: Preset, growth: Timeline) -> tuple[Outcome, Outcome, Outcome]:
    with seeded(stage.recipe.seed):
        start = chosen.small(stage.task)
    small = stage.arm("small", copy.deepcopy(start))
    grown = stage.arm("grown", start, growth)
    return small, grown, stage.arm("scratch", fresh(grown.model, stage.recipe.seed))


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _record(settings: Settings, data: str) -> Record:
    if settings.out is not None:
        return Record(settings.out)
    name = f"demo-{data}-{settings.rule}-seed{settings.seed}"
    return Record.numbered(Path("runs"), name)


def _arguments(settings: Settings, task: ImageTask, recipe: Recipe, by: float) -> dict[str, object]:
    return {
        "data": task.name,
        "rule": settings.rule,
        "by": by,
        "device": settings.device,
        "threads": torch.get_num_threads(),
        **asdict(recipe),
    }


def _leave(found: Comparison, record: Record, what: str) -> None:
    """Write what a run leaves behind once it is complete."""
    assert found.grown.grower is not None  # the arm that grew has one
    save(found.grown.grower, record.path("grown.safetensors"))
    record.json("result.json", {arm.name: _result(arm, found.budget) for arm in found.arms})
    plots.curves(
        [_curve(arm, what) for arm in found.arms],
        record.path("curves.png"),
        title=f"{type(found.small.model).__name__} on {found.data}, {what} in mid-training",
        note=found.signature,
        budget=found.budget,
    )


def _result(arm: Outcome, budget: int) -> dict[str, object]:
    return {
        **asdict(arm.points[-1]),
        "test_accuracy": arm.test_accuracy,
        "validation_accuracy_at_equal_flops": arm.within(budget).accuracy,
        "equal_flops": budget,
    }


def _curve(arm: Outcome, label: str) -> plots.Curve:
    return plots.Curve(
        arm.name,
        [plots.Point(point.step, point.flops, point.accuracy) for point in arm.points],
        [plots.Mark(grown.step, grown.flops, label) for grown in arm.growths],
        reference=arm.name == "small",
    )
