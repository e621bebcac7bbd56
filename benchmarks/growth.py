"""How long growing takes, against writing the result to fresh memory once.

    python benchmarks/growth.py [--threads 2] [--repeats 5]

Growth proper is plan plus edits; draws of random numbers are shown apart. The yardstick is a
`clone()` of every tensor of the grown model, timed in the same run: page faults and all. The Llama
needs transformers; its largest change of a logit is measured too, with the proof's own inputs.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import resnets
import torch
from torch import Tensor, nn

import gnomon as gn
from gnomon.editing.surgery import Surgery, operate

Model = tuple[nn.Module, object]


@dataclass(frozen=True)
class Case:
    """A model with an example, and what of it becomes how much wider."""

    build: Callable[[], Model]
    morph: Callable[[gn.Grower], gn.Widen]
    needs: str = "torch"


def resnet(depth: int) -> Model:
    """A ResNet for ImageNet, and two small images."""
    return resnets.resnet(depth), torch.randn(2, 3, 64, 64)


def llama() -> Model:
    """A Llama of 134 million parameters: 12 layers, 768 wide, 12 heads, 2,048 within."""
    transformers = importlib.import_module("transformers")
    config = transformers.LlamaConfig(
        num_hidden_layers=12, hidden_size=768, intermediate_size=2048, num_attention_heads=12
    )
    tokens = torch.randint(config.vocab_size, (2, 16))
    return transformers.LlamaForCausalLM(config), {"input_ids": tokens, "use_cache": False}


CASES = {
    "resnet18-hidden-x1.5": Case(
        partial(resnet, 18), lambda grower: gn.Widen(hidden_groups(grower), by=1.5)
    ),
    "resnet50-all-x2": Case(partial(resnet, 50), lambda _: gn.Widen("*", by=2)),
    "llama-134m-all-x2": Case(
        llama, lambda _: gn.Widen("*", by=2, rule=gn.Net2Net()), needs="transformers"
    ),
}


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
    asked = CASES[case]
    torch.manual_seed(0)
    if asked.needs == "torch":
        gn.Grower(*asked.build())  # first calls load code
    model, inputs = asked.build()
    call = inputs if isinstance(inputs, dict) else {"x": inputs}
    before_growth = logits(model, call)
    start = time.perf_counter()
    grower = gn.Grower(model, inputs)
    analysis = time.perf_counter() - start
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts anew
    before = status("VmRSS")
    start = time.perf_counter()
    plan, surgery = grower.plan(asked.morph(grower)), Surgery()
    planning = time.perf_counter() - start
    operate(model, plan, [], surgery)
    extra = status("VmHWM") - before
    after = logits(model, call)
    size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    write = statistics.median(fresh_writes(model, 3))
    edits = planning + surgery.seconds
    return {
        "analysis": analysis,
        "growth": edits + surgery.drawing,
        "planning": planning,
        "draws": surgery.drawing,
        "fresh_write": write,
        "ratio": edits / write,
        "extra_memory": extra / size,
        "parameters": sum(p.numel() for p in model.parameters()) / 1e6,
        "moved_by_1e6": float((after - before_growth).abs().max()) * 1e6,
        "largest": float(before_growth.abs().max()),
    }


def logits(model: nn.Module, call: dict[str, object]) -> Tensor:
    """The outputs in eval mode."""
    model.eval()
    with torch.no_grad():
        out: Tensor = model(*call.values()) if set(call) == {"x"} else model(**call).logits
    return out.double()


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
    for case, asked in CASES.items():
        if importlib.util.find_spec(asked.needs) is None:
            print(f"{case:22s} left out: {asked.needs} is not installed")
            continue
        command = [sys.executable, __file__, "--case", case, "--threads", str(given.threads)]
        runs = [
            json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            for _ in range(given.repeats)
        ]
        row = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        print(f"{case:22s}", "  ".join(f"{key} {value:.3f}" for key, value in row.items()))


if __name__ == "__main__":
    main()
