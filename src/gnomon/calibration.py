"""Set the norms of new modules from the example inputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from gnomon.activations import PBatchNorm
from gnomon.additions import Added
from gnomon.edit import ModuleEdit
from gnomon.making import Started
from gnomon.ops.context import Op
from gnomon.statistics import Sums, batch_sums, measure_statistics
from gnomon.tape import Call, owned_tensors, record
from gnomon.zero import equalise


def calibrate(model: nn.Module, calls: Sequence[Call], added: Added) -> None:
    """Give every new BatchNorm the statistics of what it sees; an identity undoes them exactly.

    Without this a norm that trained on no batch yet would scale its channels by chance in eval
    mode. Norms of a template that has been trained keep what they learned.
    """
    names = {id(t): n for n, t in owned_tensors(model).items()}
    for module, edit, started in added.modules:
        if edit.start == "identity":
            passed = {id(m.norm) for m in module.modules() if isinstance(m, PBatchNorm)}
            norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
            for norm in (m for m in norms if id(m) not in passed):
                _be_identity(model, calls, norm)
        elif edit.start in ("zero", "random"):
            _measure(model, calls, module, names, edit, started)


def _measure(
    model: nn.Module,
    calls: Sequence[Call],
    module: nn.Module,
    names: dict[int, str],
    edit: ModuleEdit,
    started: Started,
) -> None:
    fresh = [m for m in module.modules() if isinstance(m, _BatchNorm) and not _trained(m)]
    buffers = [b for m in fresh for b in (m.running_mean, m.running_var) if b is not None]
    measured = measure_statistics(model, calls, {names[id(b)] for b in buffers})
    with torch.no_grad():
        for buffer in buffers:
            if names[id(buffer)] in measured:
                buffer.copy_(measured[names[id(buffer)]])
        for part, zero in started:
            equalise(part, zero)


def _trained(norm: _BatchNorm) -> bool:
    return norm.num_batches_tracked is not None and int(norm.num_batches_tracked) > 0


def _be_identity(model: nn.Module, calls: Sequence[Call], norm: _BatchNorm) -> None:
    """gain = sqrt(v + eps) and shift = m undo a batch of mean m and (biased) variance v.

    The running statistics get the same numbers, so that eval mode is exact for every input.
    """
    sums: list[Sums] = []

    def look(op: Op) -> None:
        if len(op.args) > 1 and op.args[1] is norm.weight:
            sums.append(batch_sums(op.args[0]))

    for call in calls:
        record(model, call, training=True, fake=False, keep=False, on_op=look)
    if not sums:
        return
    count, total, squares = (torch.stack(part).sum(0) for part in zip(*sums, strict=True))
    mean = total / count
    variance = (squares / count - mean**2).clamp(min=0)
    with torch.no_grad():
        norm.weight.copy_((variance + norm.eps).sqrt())
        norm.bias.copy_(mean)
        if norm.running_mean is not None and norm.running_var is not None:
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(variance)
