"""How long growing takes, against writing the result to fresh memory once.

    python benchmarks/growth.py [--threads 2] [--repeats 5]

Growth proper is plan plus edits; draws of random numbers are shown apart. The yardstick is a
`clone()` of every tensor of the grown model, timed in the same run: page faults and all.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

import resnets
import torch
from torch import nn

import gnomon as gn
from gnomon.surgery import Surgery, operate

CASES = {"resnet18-hidden-x1.5": (18, 1.5), "resnet50-all-x2": (50, 2.0)}


def hidden_groups(grower: gn.Grower) -> list[str]:
    """The hidden widths of the blocks: growable groups that a single convolution writes."""
    found = []
    for group in grower.groups:
        writers = {s.name for s in group.slots if s.role == "write"}
        if group.verdict == "growable" and len(writers) == 1 and ".body." in group.name:
            found.append(group.name)
    return found


def fresh_writes(model: nn.Module, rounds: int) -> list[float]:
    """Seconds to write every tensor of the model to memory that was never used before.

    Nothing is freed between the rounds, so that no round gets pages that another one left.
    """
    kept, seconds = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        kept.append([t.detach().clone() for t in model.state_dict().values()])
        seconds.append(time.perf_counter() - start)
    return seconds


def status(field: str) -> int:
    """Bytes of a field of /proc/self/status: VmRSS is resident now, VmHWM was its peak."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(field))
    return int(line.split()[1]) * 1024


def once(case: str) -> dict[str, float]:
    """One growth in this process: plan and edits, without the proof."""
    depth, by = CASES[case]
    torch.manual_seed(0)
    model = resnets.resnet(depth)
    x = torch.randn(2, 3, 64, 64)
    gn.Grower(resnets.resnet(depth), x)  # first calls load code
    start = time.perf_counter()
    grower = gn.Grower(model, x)
    analysis = time.perf_counter() - start
    morph = gn.Widen(hidden_groups(grower) if depth == 18 else "*", by=by)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts anew
    before = status("VmRSS")
    start = time.perf_counter()
    plan, surgery = grower.plan(morph), Surgery()
    planning = time.perf_counter() - start
    operate(model, plan, [], surgery)
    extra = status("VmHWM") - before
    size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    write = statistics.median(fresh_writes(model, 3))
    edits = planning + surgery.seconds
    return {
        "analysis": analysis,
        "growth": edits + surgery.drawing,
        "draws": surgery.drawing,
        "fresh_write": write,
        "ratio": edits / write,
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
        print(json.dumps(once(given.case)))
        return
    for case in CASES:
        command = [sys.executable, __file__, "--case", case, "--threads", str(given.threads)]
        runs = [
            json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            for _ in range(given.repeats)
        ]
        row = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        print(f"{case:22s}", "  ".join(f"{key} {value:.3f}" for key, value in row.items()))


if __name__ == "__main__":
    main()
