"""The share of a training run's time that growing takes, as `gnomon demo` trains.

    python benchmarks/growth_share.py [--seeds 5] [--wall] [--profile]

Digits: the demo's grown arm, whole. CIFAR-10: as many steps as give a time per step before and
after the growth, on random images of that size; the share is that of the demo's ten epochs.
Growing is everything that a run without it would not do: the first analysis, plans, edits, proofs.
Evaluation counts on neither side. Seconds are those of the processor, which other processes on a
shared machine do not move (`--wall`: those of the clock).
"""

from __future__ import annotations

import argparse
import cProfile
import platform
import pstats
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

import gnomon as gn
from gnomon.grower import Morph
from gnomon.lab.data.tasks import ImageTask, Split, load
from gnomon.lab.demo import Preset, preset
from gnomon.lab.training.machine import Machine
from gnomon.lab.training.starts import seeded
from gnomon.lab.training.train import EXAMPLES, Training
from gnomon.receipt import Receipt

CIFAR_IMAGES = 45_000  # a tenth of the 50,000 are for validation
SAMPLE = 20  # steps that are timed before the growth, and after it


@dataclass(frozen=True)
class Shared:
    """One run: seconds of growing, and of training before and after it."""

    growing: float
    first: float
    before: float
    after: float
    receipts: tuple[Receipt, ...]

    @property
    def share(self) -> float:
        """Of growing, in all."""
        return self.growing / (self.growing + self.before + self.after)


def digits(seed: int) -> Shared:
    """The demo's grown arm."""
    task = load("digits", seed=seed)
    chosen = preset(task)
    return run(task, chosen, replace(chosen.recipe, seed=seed).epochs, seed)


def cifar(seed: int) -> Shared:
    """Some steps of the demo's grown arm, stretched to all of them."""
    draw = torch.Generator().manual_seed(seed)
    count = SAMPLE * 128
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=draw)
    split = Split(images, torch.randint(0, 10, (count,), generator=draw))
    mean = torch.full((3, 1, 1), 127.5)
    task = ImageTask("random", split, split[:128], split[:128], 10, 3, mean, mean / 2)
    chosen = preset(task)
    timed = run(task, chosen, 2, seed)
    stretch = chosen.recipe.epochs / 2 * (CIFAR_IMAGES // 128) / SAMPLE
    return replace(timed, before=timed.before * stretch, after=timed.after * stretch)


def run(task: ImageTask, chosen: Preset, epochs: int, seed: int) -> Shared:
    """Train for so many epochs and grow at half of them, as the demo does."""
    with seeded(seed):
        model = chosen.small(task)
    timeline = gn.Timeline(gn.At(morphs(chosen), epoch=epochs // 2), seed)
    recipe = replace(chosen.recipe, epochs=epochs, seed=seed)
    training = Training(model, task, recipe, machine=Machine("cpu"), timeline=timeline)
    start = time.perf_counter()
    training.grower()
    first = time.perf_counter() - start
    growing, before = first, 0.0
    receipts: tuple[Receipt, ...] = ()
    for epoch in training.rounds():
        end = epoch.point.seconds
        if epoch.growths:
            before, receipts = end, tuple(g.receipt for g in epoch.growths if g.receipt)
            growing += epoch.growths[-1].seconds - before
    return Shared(growing, first, before, end - before - (growing - first), receipts)


def morphs(chosen: Preset) -> list[Morph]:
    """As the demo grows: all wider, then blocks behind some stages."""
    return [gn.Widen("*", by=chosen.by), gn.Deepen(chosen.deeper)]


def tell(name: str, runs: Sequence[Shared]) -> None:
    """Print the median, and what growing consists of."""
    shares = [f"{100 * run.share:.2f}" for run in runs]
    middle = statistics.median(run.share for run in runs)
    print(f"{name}: {100 * middle:.2f} % of the time ({', '.join(shares)})")
    parts = {"first analysis": [run.first for run in runs]}
    for part in ("analysis", "plan", "edits", "drawing", "proof"):
        parts[part] = [sum(getattr(r.seconds, part) for r in run.receipts) for run in runs]
    named = sum(statistics.median(values) for values in parts.values())
    parts["other"] = [statistics.median(run.growing for run in runs) - named]
    shown = ", ".join(f"{part} {statistics.median(v) * 1e3:.0f}" for part, v in parts.items())
    growing = statistics.median(run.growing for run in runs)
    training = statistics.median(run.before + run.after for run in runs)
    print(f"    growing {growing * 1e3:.0f} ms ({shown}), training {training:.1f} s", flush=True)


def main() -> None:
    """Both settings. The first seed also pays for what is loaded and compiled once."""
    ask = argparse.ArgumentParser()
    ask.add_argument("--seeds", type=int, default=5)
    ask.add_argument("--wall", action="store_true", help="wall-clock time, not this process's own")
    ask.add_argument("--profile", action="store_true", help="where the time of one growth goes")
    given = ask.parse_args()
    torch.set_num_threads(1)
    if not given.wall:
        time.perf_counter = time.process_time  # of all modules: everything here is one thread
    clock = "wall" if given.wall else "CPU"
    print(f"torch {torch.__version__}, {platform.machine()}, 1 thread, {clock} seconds")
    if given.profile:
        profile()
        return
    tell("digits, DigitsNet(2), 60 epochs", [digits(seed) for seed in range(given.seeds)])
    tell("CIFAR-10, ResNetCifar18(1/8), 10 epochs", [cifar(seed) for seed in range(given.seeds)])


def profile() -> None:
    """Print the functions in which a growth on digits spends its time."""
    task = load("digits", seed=0)
    chosen = replace(preset(task), recipe=replace(preset(task).recipe, epochs=2))
    run(task, chosen, 2, 0)  # the first calls load code
    for order in ("cumulative", "tottime"):
        profiler = cProfile.Profile()
        with seeded(0):
            model = chosen.small(task)
        optimizer = chosen.recipe.optimizer_of(model.parameters())
        x = task.prepared(task.train.inputs[:EXAMPLES])
        profiler.enable()
        gn.Timeline(gn.At(morphs(chosen), step=0)).advance(gn.Grower(model, x, optimizer))
        profiler.disable()
        pstats.Stats(profiler).sort_stats(order).print_stats(45)


if __name__ == "__main__":
    main()
