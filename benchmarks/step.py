"""A grown network's training step against the same shapes built natively, in pairs.

    python benchmarks/step.py [--pairs 30] [--threads 2] [--warmup 110]

Both networks take the same batch in turn; the ratio is taken pair by pair and its median printed.
"""

from __future__ import annotations

import argparse
import statistics
import time

import resnets
import torch
from torch import Tensor, nn

import gnomon as gn


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> float:
    """Seconds of one forward, backward and update."""
    start = time.perf_counter()
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()
    return time.perf_counter() - start


def main() -> None:
    """ResNet-18 at width 1/4, all channels doubled, against ResNet-18 at width 1/2."""
    ask = argparse.ArgumentParser()
    ask.add_argument("--pairs", type=int, default=30)
    ask.add_argument("--threads", type=int, default=2)
    ask.add_argument("--warmup", type=int, default=110, help="steps before the first pair")
    given = ask.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    x = torch.randn(8, 3, 64, 64)
    grown = resnets.resnet(18, classes=10, width=0.25)
    optimizer = torch.optim.AdamW(grown.parameters(), 1e-3)
    step(grown, optimizer, x)
    gn.Grower(grown, x, optimizer).grow(gn.Widen("*", by=2))
    native = resnets.resnet(18, classes=10, width=0.5)
    native_optimizer = torch.optim.AdamW(native.parameters(), 1e-3)
    same = [p.shape for p in grown.parameters()] == [p.shape for p in native.parameters()]
    assert same, "the two networks must have the same shapes"
    for _ in range(given.warmup):  # the default is past the hook of the first gradients
        step(grown, optimizer, x), step(native, native_optimizer, x)
    ratios, seconds = [], []
    for i in range(given.pairs):
        runs = [("grown", grown, optimizer), ("native", native, native_optimizer)]
        taken = {name: step(m, o, x) for name, m, o in (runs if i % 2 else runs[::-1])}
        ratios.append(taken["grown"] / taken["native"])
        seconds.append(taken["native"])
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(
        f"grown / native: median {middle:.3f} (quartiles {low:.3f} to {high:.3f}), "
        f"{given.pairs} pairs, native step {statistics.median(seconds) * 1e3:.1f} ms"
    )


if __name__ == "__main__":
    main()
