"""Grow transformers along every kind of axis and print which rules are exact, and why not others.

    python benchmarks/axes.py [--only PART ...] [--out axes.md]

Per model of the zoo and per kind of axis (`gnomon.Grower(...).groups[i].kind`), each group alone, a
copy of the model for each:

    R2R()                      two more, rounded up to a step
    Net2Net()                  twice as many
    NetMorph(zero="writers")   half as many more

The judge is that of `zoo.py`: outputs from before and after, compared without gnomon's own checks.
A cell says `any` where all three were exact, else which were; then what the code makes grow along,
and a number for the reason if none was. `output`: the model returns the stream itself.
"""

from __future__ import annotations

import argparse
import copy
import re
from collections import defaultdict
from pathlib import Path

import zoo_models
from zoo import attempt, in_double, outputs

import gnomon as gn
from gnomon.analysis.groups import Group

RULES = {
    "R2R": (gn.R2R(), {"add": 2}),
    "Net2Net": (gn.Net2Net(), {"by": 2}),
    "zero writers": (gn.NetMorph(zero="writers"), {"by": 1.5}),
}
KINDS = (
    *("feed-forward", "stream", "heads", "key-value heads", "query heads of each group"),
    *("query-key dimension", "value dimension", "head dimension"),
)
MODELS = (
    *("bert", "roberta", "distilbert", "gpt2", "gpt_neox", "opt", "bloom", "t5", "bart", "whisper"),
    *("llama", "mistral", "qwen2", "qwen3", "gemma", "vit", "dinov2", "swin"),
)
OUTSIDE = ("the model's own output", "the model's own input")


def kind_of(group: Group) -> str:
    """The kind of an axis, in the words of the table; a normed or tied one is a stream."""
    averaged = any(law.kind == "uniform" for law in group.laws)
    if group.kind != "channels":
        return group.kind
    return "stream" if averaged else "feed-forward"


def tried(name: str, reasons: dict[str, int]) -> tuple[dict[str, str], list[str]]:
    """The cells of a model's row, and what was wrong or crashed."""
    model, example = zoo_models.build(f"transformers/{name}")
    model, example = in_double(zoo_models.as_if_trained(model), example)
    old = outputs(model, example)
    found: dict[str, dict[str, None]] = defaultdict(dict)
    faults = []
    groups = gn.Grower(copy.deepcopy(model), example).groups
    kinds = {g.name: kind_of(g) for g in groups}
    for group in groups:
        if group.verdict == "refused" and any(part in group.reason for part in OUTSIDE):
            if kinds[group.name] == "stream":
                found["stream"]["output"] = None
            continue
        exact, why = [], ""
        for rule, (filled, amount) in RULES.items():
            morph = gn.Widen(group.name, rule=filled, **amount)  # type: ignore[arg-type]
            verdict, said = attempt(model, example, old, morph)
            exact += [rule] if verdict == "exact" else []
            why = why or (said if verdict == "refused" else "")
            faults += [f"{verdict}: {morph}: {said}"] if verdict in ("wrong", "crashed") else []
        found[kinds[group.name]][_cell(group, exact, why, kinds, reasons)] = None
    return {kind: "; ".join(cells) for kind, cells in found.items()}, faults


def _cell(
    group: Group, exact: list[str], why: str, kinds: dict[str, str], reasons: dict[str, int]
) -> str:
    text = "any" if len(exact) == len(RULES) else ", ".join(exact) or "refused"
    along = dict.fromkeys(kinds[other] for other in group.along)
    text += f", with {' and '.join(along)}" if exact and along else ""
    if exact:
        return text
    reason = re.sub(r"\.\d+\b", ".*", group.reason or why).partition(":")[0]
    return f"{text} ({reasons.setdefault(reason, len(reasons) + 1)})"


def main() -> None:
    """Read the options and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--out", type=Path, help="write the table here too, in Markdown")
    asked = parser.parse_args()
    reasons: dict[str, int] = {}
    lines = ["| model | " + " | ".join(KINDS) + " |", "|---" * (len(KINDS) + 1) + "|"]
    print(*lines, sep="\n", flush=True)
    wrong = 0
    for name in asked.only or MODELS:
        cells, faults = tried(name, reasons)
        lines.append("| " + " | ".join([name, *(cells.get(k, "") for k in KINDS)]) + " |")
        print(lines[-1], *(f"    {fault[:300]}" for fault in faults), sep="\n", flush=True)
        wrong += len(faults)
    notes = [f"{number}. {reason}" for reason, number in reasons.items()]
    print("", *notes, f"{wrong} wrong or crashed", sep="\n")
    if asked.out is not None:
        asked.out.write_text("\n".join([*lines, "", *notes, ""]))
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
