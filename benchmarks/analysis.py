"""How analysis scales: seconds against recorded operations, as a table and a picture.

    python benchmarks/analysis.py [--zoo FOLDER] [--out analysis.csv]
    python benchmarks/analysis.py --plot analysis.csv analysis.png

Without a zoo it takes residual networks of growing depth. A zoo is a folder with a `zoo.py` that
has `names()` and `build(name) -> model, args, kwargs`.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import resnets
import torch
from torch import nn

import gnomon as gn

REPEATS = 1


def chain(blocks: int) -> nn.Module:
    """A stem and so many basic blocks of 16 channels."""
    stem = nn.Conv2d(3, 16, 3, padding=1)
    return nn.Sequential(stem, *(resnets.Block(16, 16, 16, 1, 16) for _ in range(blocks)))


def models(zoo: Path | None) -> Iterator[tuple[str, nn.Module, Any]]:
    """Names, models and example inputs."""
    if zoo is None:
        for depth in (18, 50):
            yield f"resnet{depth}", resnets.resnet(depth), torch.randn(2, 3, 64, 64)
        for blocks in (10, 30, 100, 300):
            yield f"chain{blocks}", chain(blocks), torch.randn(2, 3, 16, 16)
        return
    sys.path.insert(0, str(zoo))
    folder = importlib.import_module("zoo")

    for name in folder.names():
        model, args, kwargs = folder.build(name)
        yield name, model, kwargs or args


def measure(model: nn.Module, inputs: Any) -> tuple[int, float]:
    """Recorded operations of all passes, and the median seconds of an analysis."""
    seconds = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        grower = gn.Grower(model, inputs)
        operations = sum(len(r.ops) for r in grower.analysis.recordings)  # read, not only recorded
        seconds.append(time.perf_counter() - start)
    return operations, statistics.median(seconds[1:])


def plot(table: Path, picture: Path) -> None:
    """Seconds against operations, one dot per model."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = list(csv.DictReader(table.open()))
    operations = [int(r["operations"]) for r in rows]
    seconds = [float(r["seconds"]) for r in rows]
    figure, axes = plt.subplots(figsize=(6.5, 4), layout="constrained")
    axes.plot(operations, seconds, "o", color="#0072B2", alpha=0.6, markersize=5)
    slope = statistics.median(s / o for s, o in zip(seconds, operations, strict=True))
    reach = max(operations)
    axes.plot([0, reach], [0, slope * reach], color="#888888", linewidth=1)
    axes.annotate(
        f"{slope * 1e6:.0f} µs per operation (median)",
        (reach * 0.98, slope * reach),
        ha="right",
        va="bottom",
        color="#555555",
    )
    axes.set_xlabel("recorded operations, eval and train pass together")
    axes.set_ylabel("seconds of analysis")
    axes.set_title(f"Analysis of {len(rows)} models", loc="left", fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlim(0)
    axes.set_ylim(0)
    figure.savefig(picture, dpi=150)


def main() -> None:
    """Measure, or draw what was measured."""
    ask = argparse.ArgumentParser()
    ask.add_argument("--zoo", type=Path)
    ask.add_argument("--out", type=Path, default=Path("analysis.csv"))
    ask.add_argument("--plot", type=Path, nargs=2)
    given = ask.parse_args()
    if given.plot:
        plot(*given.plot)
        return
    with given.out.open("w") as file:
        writer = csv.writer(file)
        writer.writerow(["model", "operations", "seconds"])
        for name, model, inputs in models(given.zoo):
            operations, seconds = measure(model, inputs)
            writer.writerow([name, operations, f"{seconds:.4f}"])
            file.flush()
            print(f"{name:44s} {operations:6d} operations  {seconds:.3f} s", flush=True)


if __name__ == "__main__":
    main()
