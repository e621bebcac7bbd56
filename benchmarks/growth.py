"""How long growing takes, against writing the result to fresh memory once.

    python benchmarks/growth.py [--threads 2] [--repeats 5]

Growth proper is plan plus edits; draws of random numbers are shown apart. The yardstick is a
`clone()` of every tensor of the grown model, timed in the same run: page faults and all.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time

import resnets
import torch
from torch import nn

import gnomon as gn

CASES = {
    "resnet18-hidden-x1.5": (18, ["4.*", "5.*", "6.*", "7.*", "8.*", "9.*", "10.*", "11.*"], 1.5),
    "resnet50-all-x2": (50, ["*"], 2.0),
}


def hidden_groups(grower: gn.Grower) -> list[str]:
    """Growable groups written by exactly one convolution: the hidden widths of the blocks."""
    found = []
    for group in grower.groups:
        writers = {s.name for s in group.slots if s.role == "write" and s.name.endswith("weight")}
        if group.verdict == "growable" and len(writers) == 1 and ".body." in group.name:
            found.append(group.name)
    return found


def fresh_write(model: nn.Module) -> float:
    """Seconds to write every tensor of the model to fresh memory."""
    start = time.perf_counter()
    copies = [t.detach().clone() for t in model.state_dict().values()]
    seconds = time.perf_counter() - start
    del copies
    return seconds


def peak() -> int:
    """Peak resident bytes of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def resident() -> int:
    """Resident bytes now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def once(case: str) -> dict[str, float]:
    """One growth in this process."""
    depth, patterns, by = CASES[case]
    torch.manual_seed(0)
    model = resnets.resnet(depth)
    x = torch.randn(2, 3, 64, 64)
    start = time.perf_counter()
    grower = gn.Grower(model, x)
    analysis = time.perf_counter() - start
    where = hidden_groups(grower) if depth == 18 else patterns
    before, high = resident(), peak()
    receipt = grower.grow(gn.Widen(where, by=by), proof="algebra")
    extra = max(peak() - max(before, 0), 0) if peak() > high else float("nan")
    size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    write = min(fresh_write(model) for _ in range(3))
    s = receipt.seconds
    return {
        "analysis": analysis,
        "growth": s.growth,
        "draws": s.drawing,
        "fresh_write": write,
        "ratio": (s.growth - s.drawing) / write,
        "extra_memory": extra / size,
    }


def main() -> None:
    """Each repeat in a fresh process, so that peaks and page faults are its own."""
    ask = argparse.ArgumentParser()
    ask.add_argument("--case", choices=CASES)
    ask.add_argument("--threads", type=int, default=2)
    ask.add_argument("--repeats", type=int, default=5)
    given = ask.parse_args()
    torch.set_num_threads(given.threads)
    if given.case:
        print(repr(once(given.case)))
        return
    for case in CASES:
        command = [sys.executable, __file__, "--case", case, "--threads", str(given.threads)]
        runs = [
            eval(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            for _ in range(given.repeats)
        ]
        row = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        print(f"{case:22s}", "  ".join(f"{key} {value:.3f}" for key, value in row.items()))


if __name__ == "__main__":
    main()
