"""Grow real architectures and compare what they compute, from outside.

    python benchmarks/zoo.py [--library timm] [--only PART] [--groups 4] [--seconds 300]
                             [--out TABLE.md] [--resume FOUND.jsonl]

Every model in a process of its own, with a limit of seconds. There: each group that can grow,
alone, by a random rule and amount; then all of them at once. The outputs before and after are
compared here, with none of gnomon's own checks: in float64 where the model's code computes in it
throughout, else in float32.

    exact    the outputs are the same to 1e-9 (2e-5 in float32), and there are more parameters
    refused  a GrowthError, and the model gives bit for bit what it gave
    wrong    anything else that came back;  crashed: any other error;  slow: over the limit

The last line sums up; the exit code is 1 if anything was wrong or crashed. Libraries that are not
installed are skipped. With `--resume`, what was found of each model is appended to a file, and the
models in it are not grown again: a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import torch.utils._pytree as pytree
import zoo_models
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import gnomon as gn
from gnomon.opening import MissingLibrary
from gnomon.opening.libraries import library

TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5}
VERDICTS = ("exact", "refused", "wrong", "crashed", "slow")
RULES = (gn.R2R(), gn.Net2Net(), gn.NetMorph(), gn.Hybrid())
AMOUNTS: tuple[dict[str, float], ...] = ({"add": 1}, {"add": 3}, {"by": 1.5}, {"by": 2})


def outputs(model: nn.Module, example: Any) -> list[Tensor]:
    """All floats that a model gives in eval mode."""
    torch.manual_seed(0)
    kwargs = example if isinstance(example, dict) else {}
    with torch.no_grad():
        result = model(**kwargs) if kwargs else model(*example)
    found = [x for x in pytree.tree_leaves(result) if isinstance(x, Tensor)]
    if not found:  # a ModelOutput that pytree does not know
        found = [x for x in result.values() if isinstance(x, Tensor)]
    return [x.clone() for x in found if x.is_floating_point()]


def moved(old: list[Tensor], new: list[Tensor]) -> float:
    """max over tensors of max|change| / max|old|; infinite for NaN and for other shapes."""
    if not old or [x.shape for x in old] != [x.shape for x in new]:
        return float("inf")
    worst = max(
        float((a - b).abs().max() / a.abs().max().clamp_min(1e-6))
        for a, b in zip(old, new, strict=True)
        if a.numel()
    )
    return worst if worst == worst else float("inf")


class Narrow(TorchDispatchMode):
    """Notes whether anything is computed in less than float64."""

    seen = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        several = out if isinstance(out, list | tuple) else (out,)
        floats = [x for x in several if isinstance(x, Tensor) and x.is_floating_point()]
        self.seen = self.seen or any(x.dtype != torch.float64 for x in floats)
        return out


def in_double(model: nn.Module, example: Any) -> tuple[nn.Module, Any]:
    """Both in float64, if the model's code computes in it."""
    wide = copy.deepcopy(model).double()
    inputs = pytree.tree_map_only(
        Tensor, lambda x: x.double() if x.is_floating_point() else x, example
    )
    try:
        with Narrow() as narrow:
            outputs(wide, inputs)
    except Exception:  # whatever foreign code raises on float64
        return model, example
    return (model, example) if narrow.seen else (wide, inputs)


def attempt(model: nn.Module, example: Any, old: list[Tensor], morph: gn.Widen) -> tuple[str, str]:
    """Grow a copy. Returns the verdict and what to say of it."""
    grown = copy.deepcopy(model)
    try:
        receipt = gn.Grower(grown, example).grow(morph)
    except gn.GrowthError as refusal:
        untouched = moved(old, outputs(grown, example)) == 0.0
        return ("refused", str(refusal)) if untouched else ("wrong", "refused, and yet it changed")
    except Exception as fault:
        return "crashed", f"{type(fault).__name__}: {fault}"
    change = moved(old, outputs(grown, example))
    more = sum(p.numel() for p in grown.parameters()) - sum(p.numel() for p in model.parameters())
    if more != receipt.parameters[1] - receipt.parameters[0] or more <= 0:
        return "wrong", f"{more} parameters more, where the receipt says {receipt.parameters}"
    precision = old[0].dtype if old[0].dtype in TOLERANCE else torch.float32
    return ("exact" if change <= TOLERANCE[precision] else "wrong"), f"outputs moved {change:.1e}"


def grow_all(name: str, most: int) -> dict[str, Any]:
    """Every group of a model alone, then all together: how often each verdict, and the faults."""
    model, example = zoo_models.build(name)
    model, example = in_double(zoo_models.as_if_trained(model), example)
    old = outputs(model, example)
    start = time.perf_counter()
    groups = gn.Grower(copy.deepcopy(model), example).groups
    seconds = time.perf_counter() - start
    draw = random.Random(name)
    growable = [g.name for g in groups if g.verdict == "growable"]
    chosen = draw.sample(growable, min(most, len(growable)))
    morphs = [gn.Widen(g, rule=draw.choice(RULES), **draw.choice(AMOUNTS)) for g in chosen]  # type: ignore[arg-type]
    normed = [g.name for g in groups if g.verdict == "normed"]
    morphs += [gn.Widen(g, by=2, rule=gn.Net2Net()) for g in normed]
    if len(growable) > 1:
        morphs.append(gn.Widen(growable, add=2))
    found = [(str(morph), *attempt(model, example, old, morph)) for morph in morphs]
    counts = Counter(verdict for _, verdict, _ in found)
    return {
        "counts": {verdict: counts[verdict] for verdict in VERDICTS},
        "growable": len(growable), "groups": len(groups), "seconds": seconds,
        "dtype": str(old[0].dtype).partition(".")[2],
        "faults": [f"{v}: {m}: {said}" for m, v, said in found if v in ("wrong", "crashed")],
        "refusals": [f"{m}: {said}" for m, v, said in found if v == "refused"],
    }  # fmt: skip


def apart(name: str, most: int, seconds: float) -> dict[str, Any]:
    """`grow_all` in a process of its own."""
    words = [sys.executable, __file__, "--one", name, "--groups", str(most)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"counts": {"slow": 1}, "faults": [f"slow: over {seconds:.0f} s"]}
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return {"counts": {"crashed": 1}, "faults": [f"crashed: {said}"]}
    return dict(json.loads(lines[-1]))


def known(file: Path | None) -> dict[str, dict[str, Any]]:
    """What was found of each model before, from a file of one line of JSON for each."""
    if file is None or not file.exists():
        return {}
    lines = map(json.loads, file.read_text().splitlines())
    return {line["model"]: line["found"] for line in lines}


def installed(kind: str) -> bool:
    """Whether a library can be imported."""
    try:
        library(kind)
    except MissingLibrary as lacking:
        print(f"skipped: {lacking}")
        return False
    return True


def row(name: str, found: dict[str, Any]) -> str:
    """A line of the table, in Markdown."""
    counts = found["counts"]
    cells = [name, f"{found.get('growable', '-')} / {found.get('groups', '-')}"]
    cells += [str(counts.get(verdict, 0)) for verdict in VERDICTS]
    cells += [found.get("dtype", "-"), f"{found['seconds']:.2f} s" if "seconds" in found else "-"]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Read the options and go through the zoo."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--library", dest="source", choices=[*zoo_models.LIBRARIES])
    parser.add_argument("--only", default="")
    parser.add_argument("--groups", type=int, default=1000, help="at most so many alone, per model")
    parser.add_argument("--seconds", type=float, default=600, help="per model")
    parser.add_argument("--out", type=Path, help="write the table here, in Markdown")
    parser.add_argument("--resume", type=Path, help="keep what is found here, and skip what is in")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(grow_all(asked.one, asked.groups)))
        return
    kinds = [k for k in zoo_models.LIBRARIES if asked.source in (None, k) and installed(k)]
    table = ["| model | growable / groups | " + " | ".join(VERDICTS) + " | dtype | analysis |"]
    table.append("|---|---" + "|---:" * len(VERDICTS) + "|---|---:|")
    print(*table, sep="\n", flush=True)
    total, start, before = Counter[str](), time.time(), known(asked.resume)
    for name in zoo_models.names():
        if name.partition("/")[0] not in kinds or asked.only not in name:
            continue
        found = before.get(name) or apart(name, asked.groups, asked.seconds)
        if asked.resume and name not in before:
            with asked.resume.open("a") as file:
                file.write(json.dumps({"model": name, "found": found}) + "\n")
        total.update(found["counts"])
        table.append(row(name, found))
        print(table[-1], *(f"    {fault[:300]}" for fault in found["faults"]), sep="\n", flush=True)
    tried = sum(total.values())
    line = ", ".join(f"{total[verdict]} {verdict}" for verdict in VERDICTS)
    share = total["exact"] / max(1, tried)
    table.append(f"\n{tried} growths: {line}; {share:.1%} grew; {time.time() - start:.0f} s.")
    print(table[-1])
    if asked.out:
        asked.out.write_text("\n".join(table) + "\n")
    sys.exit(1 if total["wrong"] or total["crashed"] or not tried else 0)


if __name__ == "__main__":
    main()
