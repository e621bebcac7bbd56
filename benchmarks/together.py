"""The seeds of one arm: one after another, in two processes, or stacked and trained at once.

    python benchmarks/together.py [--rounds 20] [--networks 5] [--device cpu|cuda]

Seconds per network and step (forward, backward, AdamW on its own batch). All ways take turns in an
order that rotates; ratios to one after another are taken round by round and their medians printed.
Two processes work at the same time, each on networks of its own with one thread: one network, or as
many stacked.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from multiprocessing.connection import Connection

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gnomon.lab.training.together import Stacked
from gnomon.models import DigitsNet, ResNetCifar18

# build, shape of an image, batch, steps of each network per round
CASES = {
    "DigitsNet(2)": (lambda: DigitsNet(2), (1, 8, 8), 32, 40),
    "ResNetCifar18(1/8)": (lambda: ResNetCifar18(Fraction(1, 8)), (3, 32, 32), 128, 3),
    "MLP 64-32-32-10": (lambda: mlp(), (64,), 32, 100),
}


def mlp() -> nn.Module:
    """Three linear layers."""
    layers = [nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10)]
    return nn.Sequential(*layers)


def seeds(case: str, count: int, device: str) -> tuple[list[nn.Module], Tensor, Tensor]:
    """Networks from different seeds, with a batch for each."""
    build, shape, batch, _ = CASES[case]
    models = []
    for seed in range(count):
        torch.manual_seed(seed)
        models.append(build().to(device))
    x = torch.randn(count, batch, *shape, device=device)
    return models, x, torch.randint(0, 10, (count, batch), device=device)


def optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """As the demo's."""
    return torch.optim.AdamW(model.parameters(), lr=1e-3)


def step(model: nn.Module, own: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    """One forward, backward and update of one network."""
    own.zero_grad()
    cross_entropy(model(x), y).backward()
    own.step()


def synchronise(device: str) -> None:
    """Wait for a GPU's work."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(work: Callable[[], object], device: str) -> float:
    """Of a piece of work, to its end."""
    synchronise(device)
    start = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - start


def trainer(case: str, count: int, device: str, *, stack: bool) -> Callable[[], None]:
    """What trains so many networks for a round, in turn or at once."""
    steps = CASES[case][3]
    models, x, y = seeds(case, count, device)
    own = [optimizer(model) for model in models]
    stacked = Stacked(models, own) if stack else None

    def work() -> None:
        if stacked is not None:
            for _ in range(steps):
                stacked.step(x, y)
            return
        for i in range(count):
            for _ in range(steps):
                step(models[i], own[i], x[i], y[i])

    return work


def one_process(case: str, device: str, pipe: Connection, works: list[tuple[int, bool]]) -> None:
    """Does a piece of work, by its number, whenever it is told to."""
    torch.set_num_threads(1)
    ready = [trainer(case, count, device, stack=stack) for count, stack in works]
    while (chosen := pipe.recv()) is not None:
        ready[chosen]()
        synchronise(device)
        pipe.send(True)


@contextmanager
def two_processes(case: str, count: int, device: str) -> Iterator[Callable[[int], float]]:
    """What makes both processes do one piece of work at the same time, and returns seconds."""
    context, pipes, workers = multiprocessing.get_context("spawn"), [], []
    for _ in range(2):
        here, there = context.Pipe()
        arguments = (case, device, there, [(1, False), (count, True)])
        workers.append(context.Process(target=one_process, args=arguments, daemon=True))
        workers[-1].start()
        pipes.append(here)

    def both(chosen: int) -> float:
        start = time.perf_counter()
        for pipe in pipes:
            pipe.send(chosen)
        for pipe in pipes:
            pipe.recv()
        return time.perf_counter() - start

    yield both
    for pipe, worker in zip(pipes, workers, strict=True):
        pipe.send(None)
        worker.join()


Way = Callable[[], tuple[float, int]]


def ways(case: str, count: int, device: str, both: Callable[[int], float]) -> dict[str, Way]:
    """Each way of training: a function that returns seconds and how many networks took steps."""
    alone = trainer(case, count, device, stack=False)
    stacked = trainer(case, count, device, stack=True)

    def here(work: Callable[[], None], threads: int) -> Way:
        def timed() -> tuple[float, int]:
            torch.set_num_threads(threads)
            return seconds(work, device), count

        return timed

    found: dict[str, Way] = {"one after another": here(alone, 1)}
    found["two processes"] = lambda: (both(0), 2)
    found["stacked, 1 thread"] = here(stacked, 1)
    if device == "cpu":
        found["stacked, 2 threads"] = here(stacked, 2)
    found["stacked, 2 processes"] = lambda: (both(1), 2 * count)
    return found


def measured(methods: dict[str, Way], rounds: int, steps: int) -> dict[str, list[float]]:
    """Seconds per network and step, of each way in each round."""
    names = list(methods)
    taken: dict[str, list[float]] = {name: [] for name in methods}
    for i in range(rounds + 2):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            whole, networks = methods[name]()
            if i >= 2:
                taken[name].append(whole / networks / steps)
    return taken


def compare(case: str, rounds: int, count: int, device: str) -> None:
    """Print a line per way."""
    with two_processes(case, count, device) as both:
        taken = measured(ways(case, count, device, both), rounds, CASES[case][3])
    names = list(taken)
    for name in names:
        ratios = [a / b for a, b in zip(taken[name], taken[names[0]], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        milliseconds = statistics.median(taken[name]) * 1e3
        print(
            f"{case:20s} {name:20s} {milliseconds:8.3f} ms per network and step, "
            f"ratio {middle:.3f} ({low:.3f} to {high:.3f})",
            flush=True,
        )


def main() -> None:
    """Print what it runs on, then every case."""
    ask = argparse.ArgumentParser()
    ask.add_argument("--rounds", type=int, default=20)
    ask.add_argument("--networks", type=int, default=5)
    ask.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    ask.add_argument("--case", choices=CASES)
    given = ask.parse_args()
    device = torch.cuda.get_device_name() if given.device == "cuda" else platform.machine()
    print(
        f"n={given.networks} networks, {given.rounds} rounds, {given.device} ({device}), "
        f"torch {torch.__version__}, Python {platform.python_version()}",
        flush=True,
    )
    for case in [given.case] if given.case else CASES:
        compare(case, given.rounds, given.networks, given.device)


if __name__ == "__main__":
    main()
