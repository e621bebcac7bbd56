"""A course as plain data and masks by parameter name, for checkpoints without pickle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gnomon.adjustments.comparison import Comparison
from gnomon.adjustments.course import Apart, Climb, Course, Young
from gnomon.adjustments.pace import Pace
from gnomon.errors import BadCheckpoint

State = dict[str, Any]


def pace_state(model: nn.Module, optimizer: Optimizer) -> State:
    """What an optimizer's hook holds: {"plain": JSON, "masks": {key: tensor}}; {} for none."""
    pace = Pace.on(optimizer)
    if pace is None or pace.course.idle:
        return {}
    course, masks = pace.course, dict[str, Tensor]()
    names = {id(p): name for name, p in model.named_parameters()}
    young = []
    for number, one in enumerate(course.young):
        own = {names[id(p)]: mask for p, mask in one.entries.items() if id(p) in names}
        masks |= {f"{number}.{name}": mask for name, mask in own.items() if mask is not None}
        whole = [name for name, mask in own.items() if mask is None]
        young.append(
            {"rate": one.rate, "decay": one.decay, "climb": asdict(one.climb), "whole": whole}
        )
    apart = [
        {
            "params": [names[id(p)] for p in one.params if id(p) in names],
            "options": dict(one.options),
            "rate": one.rate,
        }
        for one in course.apart
    ]
    plain = {
        "factor": course.factor,
        "climb": None if course.climb is None else asdict(course.climb),
        "young": young,
        "apart": apart,
        "comparison": None if course.comparison is None else _compared(course.comparison),
    }
    return {"plain": plain, "masks": masks}


def _compared(comparison: Comparison) -> State:
    before = comparison.before
    return {
        "steps": comparison.steps,
        "least": comparison.least,
        "most": comparison.most,
        "recent": [float(s) for s in comparison.recent],
        "before": None if before is None else [float(s) for s in before],
    }


def load_pace(model: nn.Module, optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Go on from what `pace_state` gave. Raises BadCheckpoint for anything else."""
    if not state:
        return
    own = dict(model.named_parameters())
    try:
        course = _course(own, optimizer, state["plain"], state["masks"])
    except KeyError as fault:
        raise BadCheckpoint(f"the rates after a growth name {fault}, which is not there") from None
    except (TypeError, ValueError, AttributeError) as fault:
        raise BadCheckpoint(f"the rates after a growth cannot be read ({fault})") from None
    Pace.of(optimizer).set(course)


def _course(
    own: Mapping[str, Tensor], optimizer: Optimizer, plain: State, masks: Mapping[str, Tensor]
) -> Course:
    young = []
    for number, one in enumerate(plain["young"]):
        entries: dict[Tensor, Tensor | None] = {own[name]: None for name in one["whole"]}
        for key, mask in masks.items():
            index, _, name = key.partition(".")
            if index == str(number):
                entries[own[name]] = _fitting(own[name], name, mask)
        young.append(Young(float(one["rate"]), float(one["decay"]), _climb(one["climb"]), entries))
    apart = []
    for one in plain["apart"]:
        options = {k: tuple(v) if isinstance(v, list) else v for k, v in one["options"].items()}
        if unknown := sorted(options.keys() - optimizer.defaults.keys()):
            raise ValueError(f"{type(optimizer).__name__} has no option {', '.join(unknown)}")
        apart.append(Apart(tuple(own[n] for n in one["params"]), options, float(one["rate"])))
    climb, compared = plain["climb"], plain["comparison"]
    return Course(
        float(plain["factor"]),
        None if climb is None else _climb(climb),
        tuple(young),
        tuple(apart),
        None if compared is None else _comparison(compared),
    )


def _climb(data: Mapping[str, Any]) -> Climb:
    return Climb(int(data["steps"]), float(data["start"]), int(data["done"]))


def _comparison(data: Mapping[str, Any]) -> Comparison:
    before = data["before"]
    return Comparison(
        int(data["steps"]),
        float(data["least"]),
        float(data["most"]),
        tuple(map(float, data["recent"])),
        None if before is None else tuple(map(float, before)),
    )


def _fitting(parameter: Tensor, name: str, mask: Tensor) -> Tensor:
    if mask.shape != parameter.shape or mask.dtype != torch.bool:
        raise ValueError(f"the mask of '{name}' is {mask.dtype} of shape {tuple(mask.shape)}")
    return mask.to(parameter.device)
