"""Set the norms of new modules from the example inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gnomon.activations import PBatchNorm
from gnomon.adding.additions import Added
from gnomon.adding.making import Started
from gnomon.adding.zero import equalise
from gnomon.ops.context import Op
from gnomon.proof.statistics import Sums, Watch, batch_sums, measure_statistics
from gnomon.recording.tape import Call, owned_tensors, record

_MEASURED = ("zero", "random")


def watch_of(model: nn.Module, added: Added) -> Watch:
    """What `calibrate` measures, to be gathered in passes that are made anyway."""
    names = {id(t): n for n, t in owned_tensors(model).items()}
    measured = [m for m, edit, _ in added.modules if edit.start in _MEASURED]
    return Watch(model, {names[id(b)] for module in measured for b in _fresh_statistics(module)})


def calibrate(
    model: nn.Module, calls: Sequence[Call], added: Added, watch: Watch | None = None
) -> None:
    """Give every new BatchNorm the statistics of what it sees; an identity undoes them exactly.

    Without this a norm that trained on no batch yet would scale its channels by chance in eval
    mode. Norms of a template that has been trained keep what they learned.

    watch: `watch_of` these, after it has seen every call in train mode.
    """
    seen = watch.measured() if watch is not None and watch.apart else None
    names = {id(t): n for n, t in owned_tensors(model).items()}
    for module, edit, started in added.modules:
        if edit.start == "identity":
            passed = {id(m.norm) for m in module.modules() if isinstance(m, PBatchNorm)}
            norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
            for norm in (m for m in norms if id(m) not in passed):
                _be_identity(model, calls, norm)
        elif edit.start in _MEASURED:
            buffers = {names[id(b)]: b for b in _fresh_statistics(module)}
            measured = measure_statistics(model, calls, buffers.keys()) if seen is None else seen
            _set(buffers, measured, started)


def _fresh_statistics(module: nn.Module) -> list[Tensor]:
    """The running statistics of its norms that were never trained."""
    fresh = [m for m in module.modules() if isinstance(m, _BatchNorm) and not _trained(m)]
    return [b for m in fresh for b in (m.running_mean, m.running_var) if b is not None]


@torch.no_grad()
def _set(buffers: Mapping[str, Tensor], measured: Mapping[str, Tensor], started: Started) -> None:
    for name, buffer in buffers.items():
        if name in measured:
            buffer.copy_(measured[name])
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
