"""What a schedule will make of a model, without training: sizes over time, on `meta`."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from gnomon.adding.additions import build_for_load, put
from gnomon.analysis.flops import grown_flops
from gnomon.analysis.groups import Analysis, analyse
from gnomon.code.prediction import Prediction
from gnomon.code.repair import repair
from gnomon.editing.surgery import Surgery, resize
from gnomon.grower import Grower
from gnomon.growth import leaf_sizes
from gnomon.morphs.subject import Subject
from gnomon.planning.plan import Plan
from gnomon.planning.silence import moved_eps
from gnomon.planning.spec import classes_of
from gnomon.schedule import Schedule


@dataclass(frozen=True)
class Size:
    """The model after a growth, or at the start: when, by what, and how large it is then.

    factories: the modules it brought in whose arguments a file cannot express (`gn.load`).
    """

    unit: str
    number: int
    morph: str
    parameters: int
    flops: int
    widths: tuple[tuple[str, int], ...]
    factories: tuple[str, ...] = ()


@dataclass(frozen=True)
class Simulation:
    """Sizes in the order in which they come; prints as a table."""

    sizes: tuple[Size, ...]

    def __str__(self) -> str:
        lines = [f"{'when':>12}  {'parameters':>12}  {'forward FLOPs':>15}  growth"]
        for size in self.sizes:
            when = f"{size.unit} {size.number}"
            lines.append(f"{when:>12}  {size.parameters:>12,}  {size.flops:>15,}  {size.morph}")
            lines += [f"{'':>12}  {name} -> {width}" for name, width in size.widths]
        return "\n".join(lines)


def simulate(
    schedule: Schedule, grower: Grower, *, steps: int = 0, epochs: int = 0, steps_per_epoch: int = 1
) -> Simulation:
    """Grow a weightless copy of the grower's model through all that a schedule knows beforehand.

    steps, epochs: how long; steps_per_epoch: to put both into one order. What waits for a metric
    is not in it. Raises GrowthError where a growth would be refused.
    """
    model = copy.deepcopy(grower.model).to("meta")
    calls = pytree.tree_map_only(Tensor, lambda x: x.to("meta"), grower.calls)
    ops = grower.ops
    start = analyse(model, calls, ops)
    sizes = [_size(("step", 0, ""), Subject(model, start, calls, ops))]
    moments = list(schedule.times(steps, epochs))
    moments.sort(key=lambda m: m[1] * (steps_per_epoch if m[0] == "epoch" else 1))
    for unit, number, morph in moments:
        subject = Subject(model, analyse(model, calls, ops), calls, ops)
        with torch.device("cpu"):
            plan = morph.plan(subject, 0)
        _apply(subject, plan)
        grown = Subject(model, analyse(model, calls, ops), calls, ops)
        sizes.append(_size((unit, number, plan.morph), grown, plan))
    return Simulation(tuple(sizes))


def _size(when: tuple[str, int, str], subject: Subject, plan: Plan | None = None) -> Size:
    flops, _ = grown_flops(subject.analysis, {})
    widths = tuple((w.group, w.new) for w in plan.widths) if plan else ()
    factories = tuple(plan.factories) if plan else ()
    return Size(*when, subject.parameters, flops, widths, factories)


def _apply(subject: Subject, plan: Plan) -> None:
    """Bring the weightless model into the plan's shapes, and find what its code keeps of them."""
    model, analysis = subject.model, subject.analysis
    for edit in plan.modules:
        module = edit.template
        if module is None:
            module = build_for_load(model, edit, classes_of(model), 1 << 62)
        put(model, edit, copy.deepcopy(module).to("meta"))
    if plan.modules and plan.edits:
        analysis = _again(subject)
    sizes = leaf_sizes(plan, analysis)
    resize(model, plan)
    if sizes:
        prediction = Prediction(analysis, sizes, moved=moved_eps(analysis, plan.attributes))
        repair(model, subject.calls, prediction, Surgery())


def _again(subject: Subject) -> Analysis:
    return analyse(subject.model, subject.calls, subject.ops)
