"""Running statistics of new channels, measured on the example inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from gnomon.ops.context import Op
from gnomon.plan import Plan
from gnomon.tape import Call, owned_tensors, record


def measure_statistics(model: nn.Module, calls: Sequence[Call], plan: Plan) -> dict[str, Tensor]:
    """Batch statistics of the plan's running statistics: per buffer, one value per channel.

    One train-mode pass per call. Batch norms normalise with the batch's own statistics there, so
    every norm sees what it would see after calibration.
    """
    wanted = {id(t): n for n, t in owned_tensors(model).items() if n in _statistics(plan)}
    sums: dict[tuple[str, int], list[Tensor]] = {}

    def look(op: Op) -> None:
        for position in (3, 4):  # running mean, running variance
            buffer = op.args[position] if len(op.args) > position else None
            if isinstance(buffer, Tensor) and id(buffer) in wanted:
                x = op.args[0].double().transpose(0, 1).flatten(1)
                found = [x.new_tensor(x.shape[1]), x.sum(1), (x * x).sum(1)]
                key = wanted[id(buffer)], position
                before = sums.get(key, [torch.zeros_like(f) for f in found])
                sums[key] = [a + b for a, b in zip(before, found, strict=True)]

    if wanted:
        for call in calls:
            record(model, call, training=True, fake=False, keep=False, on_op=look)
    measured = {}
    for (name, position), (count, total, squares) in sums.items():
        variance = (squares - total**2 / count) / (count - 1).clamp(min=1)
        measured[name] = total / count if position == 3 else variance.clamp(min=0)
    return measured


def _statistics(plan: Plan) -> set[str]:
    if plan.rule.statistics == "copied":
        return set()
    return {e.name for e in plan.edits if e.fill == "statistic"}


def write_statistics(model: nn.Module, plan: Plan, measured: Mapping[str, Tensor]) -> None:
    """Set running statistics of fresh signals to what was measured; twins get the same numbers."""
    owned = owned_tensors(model)
    for edit in plan.edits:
        if edit.name not in measured:
            continue
        buffer, e = owned[edit.name], plan.embedding(edit.dims[0].form)
        for signals, channels in e.classes:
            twins = channels[signals >= e.old].to(buffer.device)
            buffer[twins] = measured[edit.name][twins[:, :1]].to(buffer.dtype).expand(twins.shape)
