"""What can grow in a model, by how much, and what not and why: as data and on a terminal."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gnomon.analysis.groups import Analysis, Group
from gnomon.axes import form
from gnomon.grower import Grower
from gnomon.recording.tape import owned_tensors

_NARROWEST = 100  # columns
_LISTED = 4


def listing(grower: Grower) -> dict[str, Any]:
    """A model's groups as JSON has it.

    more_parameters: what the least growth of a group, by its step, adds to the model.
    """
    analysis = grower.analysis
    groups = [
        {
            "name": group.name,
            "width": group.width,
            "step": group.step,
            "verdict": group.verdict,
            "reason": group.reason,
            "rules": list(group.rules),
            "more_parameters": more_parameters(grower, group),
            "slots": [
                {"name": slot.name, "dim": slot.dim, "axis": slot.axis, "role": slot.role}
                for slot in group.slots
            ],
        }
        for group in analysis.groups
    ]
    return {
        "class": type(grower.model).__name__,
        "parameters": sum(p.numel() for p in grower.model.parameters()),
        "growable": sum(group["verdict"] == "growable" for group in groups),
        "groups": groups,
        "unreached": list(analysis.unreached),
        "no_rule_for": dict(analysis.context.unknown),
        "random": list(analysis.random),
        "seconds": analysis.seconds,
    }


def more_parameters(grower: Grower, group: Group) -> int:
    """What one step more of a group adds to the model."""
    learns = {name for name, _ in grower.model.named_parameters()}
    owned = owned_tensors(grower.model)
    grown: dict[str, dict[int, int]] = defaultdict(dict)
    for slot in group.slots:
        if slot.name in learns:
            grown[slot.name][slot.dim] = _size(grower.analysis, group, slot.name, slot.dim)
    more = 0
    for name, sizes in grown.items():
        shape = owned[name].shape
        more += math.prod(sizes.get(d, n) for d, n in enumerate(shape)) - math.prod(shape)
    return more


def _size(analysis: Analysis, group: Group, name: str, dim: int) -> int:
    axis = analysis.context.dims[name][dim]
    return form(axis, {group.leaf: group.name}).grown({group.name: group.leaf.size + 1})


def show_listing(data: dict[str, Any], console: Console) -> None:
    """Show it as a table: what can grow first, then the rest with the reasons."""
    console.print(
        Text(
            f"{data['class']}: {data['parameters']:,} parameters; {data['growable']} of "
            f"{len(data['groups'])} groups of channels can grow by any rule",
            style="bold",
        ),
        soft_wrap=True,
    )
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("group", no_wrap=True)
    for heading in ("width", "step", "per step", "tensors"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("may grow", overflow="fold")
    order = {"growable": 0, "normed": 1, "tied": 2, "refused": 3}
    for group in sorted(data["groups"], key=lambda g: order[g["verdict"]]):
        grows = group["verdict"] == "growable"
        table.add_row(
            Text(group["name"]),
            f"{group['width']:,}",
            f"{group['step']:,}",
            f"+{group['more_parameters']:,}",
            f"{len({slot['name'] for slot in group['slots']})}",
            Text(_may(group)),
            style="" if grows else "dim",
        )
    Console(file=console.file, width=max(console.width, _NARROWEST)).print(table)
    for line in _notes(data):
        console.print(Text(line, style="dim"), soft_wrap=True)


def _may(group: dict[str, Any]) -> str:
    if group["verdict"] == "growable":
        return "by any rule"
    only = f"only {', '.join(group['rules'])}: " if group["rules"] else "no: "
    return only + str(group["reason"])


def _notes(data: dict[str, Any]) -> list[str]:
    lines = ["step: the least it grows by; per step: the parameters that this adds."]
    for operation, where in data["no_rule_for"].items():
        lines.append(f"no rule for {operation} in '{where}': what it touches stays as it is")
    if data["unreached"]:
        several = data["unreached"]
        shown = ", ".join(several[:_LISTED]) + (", ..." if several[_LISTED:] else "")
        lines.append(f"never reached by the example inputs: {shown}")
    if data["random"]:
        lines.append(f"random: {', '.join(data['random'])}")
    return lines
