"""A training step of an R2R block in its three forms against the same layers written by hand.

    python benchmarks/forms.py [--rounds 300] [--threads 2] [--blocks 4]

One network, a body of residual stages, is built four times: with blocks in parallel, concatenated,
folded into native layers after one step, and from `nn.Sequential` by hand. All take the same batch
in turn, in an order that rotates; ratios are taken round by round and their medians printed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Literal

import torch
from torch import Tensor, nn

from gnomon.blocks import R2RBlock, Residual, carry, carry_gradients

CHANNELS, HIDDEN, STAGES = 32, 32, 4


def network(name: str, blocks: int) -> nn.Sequential:
    """A stem, residual stages and a head. What is to be folded starts as blocks in parallel."""
    form: Literal["parallel", "concatenated"] = (
        "concatenated" if name == "concatenated" else "parallel"
    )
    stages = []
    for _ in range(STAGES):
        r2r = R2RBlock(CHANNELS, CHANNELS, (HIDDEN,) * blocks, form=form)
        stages.append(Residual(by_hand(blocks) if name == "by hand" else r2r, activation=nn.ReLU()))
    stem = nn.Conv2d(3, CHANNELS, 3, padding=1)
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, 10))
    return nn.Sequential(stem, *stages, *head)


def by_hand(blocks: int) -> nn.Module:
    """The layers that a block of this total width amounts to."""
    return nn.Sequential(
        nn.Conv2d(CHANNELS, blocks * HIDDEN, 3, padding=1, bias=False),
        nn.BatchNorm2d(blocks * HIDDEN),
        nn.ReLU(),
        nn.Conv2d(blocks * HIDDEN, CHANNELS, 1),
    )


def fold(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Fold every R2R block in place, with its optimizer state."""
    for stage in model.children():
        if isinstance(stage, Residual) and isinstance(stage.body, R2RBlock):
            native, pieces = stage.body.native()
            carry_gradients(stage.body, native, pieces)
            carry(optimizer, stage.body, native, pieces, [])
            stage.body = native


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> float:
    """Seconds of one forward, backward and update."""
    start = time.perf_counter()
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()
    return time.perf_counter() - start


def main() -> None:
    """Print the three ratios."""
    ask = argparse.ArgumentParser()
    ask.add_argument("--rounds", type=int, default=300)
    ask.add_argument("--warmup", type=int, default=10)
    ask.add_argument("--threads", type=int, default=2)
    ask.add_argument("--blocks", type=int, default=4, help="blocks in parallel in each stage")
    given = ask.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    x = torch.randn(8, 3, 32, 32)
    runs = {}
    for name in ("by hand", "parallel", "concatenated", "folded"):
        model = network(name, given.blocks)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
        step(model, optimizer, x)
        if name == "folded":
            fold(model, optimizer)
        runs[name] = (model, optimizer)
    shapes = [[p.shape for p in runs[name][0].parameters()] for name in ("folded", "by hand")]
    assert shapes[0] == shapes[1], "the two networks must have the same shapes"
    names = list(runs)
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(given.warmup + given.rounds):
        for name in names[i % 4 :] + names[: i % 4]:
            seconds = step(*runs[name], x)
            if i >= given.warmup:
                taken[name].append(seconds)
    for name in names[1:]:
        ratios = [a / b for a, b in zip(taken[name], taken["by hand"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(f"{name} / by hand: median {middle:.3f} (quartiles {low:.3f} to {high:.3f})")
    print(
        f"{given.rounds} rounds of {given.blocks} blocks, by hand "
        f"{statistics.median(taken['by hand']) * 1e3:.1f} ms, {given.threads} "
        f"threads, torch {torch.__version__}"
    )


if __name__ == "__main__":
    main()
