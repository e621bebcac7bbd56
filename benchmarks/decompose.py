"""One 3x3 layer as two: the structured solver against least squares and Algorithm 1.

    python benchmarks/decompose.py [--threads 2] [--repeats 3] [--plot docs/decompose.png]

First the solver by itself, each size in a process of its own: median seconds, residual, the peak
of its memory and what `memory` said before. Then all three methods on the same layers, drawn.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from gnomon.decompose import (
    alternating,
    base_and_pairs,
    case,
    factored,
    least_squares,
    memory,
    mismatch,
    shapes_of,
)
from gnomon.decompose.compose import embedded
from gnomon.decompose.scale import balanced_std, drawn
from gnomon.draw import Draw
from gnomon.lab.drawing.plots import COLOURS, FAINT, REFERENCE, STYLE

SIZES = [(c, 1) for c in (64, 128, 256, 512)] + [(c, 3) for c in (64, 128, 256)] + [(512, 0)]
THREES = ((3, 3), (3, 3))  # both kernels
COMPARED = (4, 8, 16, 32, 64, 128)
ROUNDS = 30  # of Algorithm 1, at twice the channels, where it stalls


def layer(channels: int) -> Tensor:
    """(C, C, 3, 3) with the deviation of a trained layer."""
    return Draw(0, "layer", std=(9 * channels) ** -0.5).weights((channels, channels, 3, 3))


def resident(field: str) -> int:
    """Bytes of a field of /proc/self/status: VmRSS is resident now, VmHWM was its peak."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(field))
    return int(line.split()[1]) * 1024


def once(channels: int, second: int, repeats: int) -> dict[str, float]:
    """The solver on one size in this process; second 0 stands for 3x3 by base and pairs."""
    weight = layer(channels)
    kernels = ((3, 3), (second or 3,) * 2)
    torch.linalg.cholesky(torch.eye(64, dtype=torch.float64))  # the first call loads code
    make = factored if second else base_and_pairs
    runs, stated = [], 0
    chosen = case(shapes_of(weight, 4 * channels, kernels))
    if second and chosen is not None:
        stated = memory(chosen)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts anew
    before = resident("VmRSS")
    two = None
    for seed in range(repeats):
        del two  # not in the peak of the next one
        start = time.perf_counter()
        two = make(weight, hidden=4 * channels, kernels=kernels, draw=Draw(seed, "benchmark"))
        runs.append(time.perf_counter() - start)
    peak = resident("VmHWM") - before
    assert two is not None
    residual = mismatch(weight, two.first, two.second, two.off)
    return {
        "seconds": statistics.median(runs),
        "residual": residual,
        "peak": peak,
        "stated": stated,
    }


def by_least_squares(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Both layers by `torch.linalg.lstsq` on the full matrix, with one random factor."""
    channels = weight.shape[0]
    std = balanced_std(weight, 4 * channels, (3, 3), (3, 3))
    second = drawn(Draw(0, "benchmark"), (channels, 4 * channels, 3, 3), std)
    return least_squares(embedded(weight, (5, 5), (1, 1)), second, (3, 3)), second


def directly(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Both layers by the structured solver."""
    two = factored(weight, hidden=4 * weight.shape[0], kernels=THREES, draw=Draw(0, "benchmark"))
    return two.first, two.second


def by_turns(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Both layers by Algorithm 1, which needs one round here."""
    found = alternating(
        weight, hidden=4 * weight.shape[0], kernels=THREES, draw=Draw(0, "benchmark")
    )
    return found.first, found.second


BESIDE = {"direct": (8, 0), "lstsq": (8, 0), "algorithm 1": (-80, 8)}
METHODS = {
    "direct": (directly, 128),
    "lstsq": (by_least_squares, 64),
    "algorithm 1": (by_turns, 32),
}


def compared(repeats: int) -> dict[str, list[tuple[int, float, float]]]:
    """(channels, median seconds, residual) of each method, as far up as it is bearable."""
    rows: dict[str, list[tuple[int, float, float]]] = {}
    for name, (method, limit) in METHODS.items():
        method(layer(4))  # the first call loads code
        rows[name] = []
        for channels in (c for c in COMPARED if c <= limit):
            weight = layer(channels)
            often = 1 if channels > 32 and name != "direct" else repeats
            runs = []
            for _ in range(often):
                start = time.perf_counter()
                first, second = method(weight)
                runs.append(time.perf_counter() - start)
            left = mismatch(weight, first, second, (1, 1))
            rows[name].append((channels, statistics.median(runs), left))
    return rows


def stalled(channels: int = 16) -> tuple[list[tuple[float, float]], tuple[float, float]]:
    """(seconds, residual) of Algorithm 1 round by round and of the solver; twice the channels."""
    weight, hidden, draw = layer(channels), 2 * channels, Draw(0, "benchmark")
    start = time.perf_counter()
    found = alternating(weight, hidden=hidden, kernels=THREES, draw=draw, iterations=ROUNDS)
    each = (time.perf_counter() - start) / found.iterations
    start = time.perf_counter()
    two = factored(weight, hidden=hidden, kernels=THREES, draw=draw)
    own = time.perf_counter() - start, mismatch(weight, two.first, two.second, two.off)
    return [(each * (i + 1), left) for i, left in enumerate(found.history)], own


def name_at(
    axes: Axes, label: str, point: tuple[float, float], ink: str, by: tuple[int, int] = (8, 0)
) -> None:
    """Write a name beside a point."""
    axes.annotate(
        label,
        point,
        xytext=by,
        textcoords="offset points",
        va="center",
        color=ink,
        annotation_clip=False,
    )


def picture(path: Path, repeats: int) -> None:
    """Seconds against channels (left) and residual against seconds (right), printed and drawn.

    One thread: on a shared machine two that wait for each other would time the neighbours.
    """
    torch.set_num_threads(1)
    note = (
        f"torch {torch.__version__}, float64, one thread, medians of {repeats}, "
        f"load {os.getloadavg()[0]:.1f} before the run"
    )
    rows, (history, own) = compared(repeats), stalled()
    for name, points in rows.items():
        for channels, seconds, left in points:
            print(f"C {channels:4d}  {name:12s} {seconds:9.3f} s   residual {left:.1e}")
    print(f"C   16, C_l 32: algorithm 1 after {len(history)} rounds {history[-1][1]:.1e} in "
          f"{history[-1][0]:.2f} s; direct {own[1]:.1e} in {own[0]:.3f} s")  # fmt: skip
    labels = {"direct": "this library", "lstsq": "torch.linalg.lstsq", "algorithm 1": "Algorithm 1"}
    inks = {"direct": COLOURS[0], "lstsq": COLOURS[1], "algorithm 1": REFERENCE}
    with rc_context(STYLE):
        figure = Figure(figsize=(11, 4.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        for axes in (left, right):
            axes.grid(axis="y", color=FAINT, linewidth=0.8)
            axes.set_axisbelow(True)
            axes.set_yscale("log")
            axes.set_xscale("log")
        for name, points in rows.items():
            xs, ys = [c for c, _, _ in points], [s for _, s, _ in points]
            left.plot(xs, ys, "o-", color=inks[name], markersize=4, linewidth=2)
            name_at(left, labels[name], (xs[-1], ys[-1]), inks[name], BESIDE[name])
        left.set_xticks(COMPARED, [str(c) for c in COMPARED])
        left.minorticks_off()
        left.set_xlabel("channels C; 4 C between")
        left.set_ylabel("seconds")
        left.set_title("3x3 into 3x3 and 3x3, solved exactly", loc="left", fontsize=10)
        right.plot(*zip(*history, strict=True), "o-", color=REFERENCE, markersize=3, linewidth=1.6)
        right.plot(*own, "o", color=COLOURS[0], markersize=8)
        name_at(right, "Algorithm 1, round by round", history[0], REFERENCE, (0, -40))
        name_at(right, "this library: fewer taps, exact", own, COLOURS[0], (12, 0))
        right.set_xlabel("seconds")
        right.set_ylabel("relative residual")
        right.set_title("C = 16 with 32 between: too few unknowns", loc="left", fontsize=10)
        figure.suptitle(
            "One layer into two, without changing it",
            x=0.012, ha="left", fontsize=12.5, fontweight="bold",
        )  # fmt: skip
        figure.supxlabel(note, x=0.012, ha="left", fontsize=7, color=REFERENCE)
        figure.savefig(path, dpi=150, facecolor="white")


def main() -> None:
    """The table, then the picture."""
    ask = argparse.ArgumentParser()
    ask.add_argument("--threads", type=int, default=2)
    ask.add_argument("--repeats", type=int, default=3)
    ask.add_argument("--plot", type=Path)
    ask.add_argument("--once", type=int, nargs=2, metavar=("CHANNELS", "SECOND"))
    given = ask.parse_args()
    torch.set_num_threads(given.threads)
    if given.once:
        print(json.dumps(once(given.once[0], given.once[1], given.repeats)))
        return
    for channels, second in SIZES:
        command = [sys.executable, __file__, "--once", str(channels), str(second)]
        command += ["--threads", str(given.threads), "--repeats", str(given.repeats)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        row = json.loads(done.stdout)
        shape = "3x3 by pairs" if second == 0 else f"{second}x{second}"
        print(
            f"C {channels:4d}  3x3 -> 3x3 + {shape:12s} {row['seconds']:7.3f} s   "
            f"residual {row['residual']:.1e}   peak {row['peak'] / 1e9:.2f} GB, "
            f"stated {row['stated'] / 1e9:.2f} GB   load {os.getloadavg()[0]:.1f}"
        )
    if given.plot:
        picture(given.plot, given.repeats)


if __name__ == "__main__":
    main()
