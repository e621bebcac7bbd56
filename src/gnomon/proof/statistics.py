"""Running statistics of new channels, measured on the example inputs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from torch import Tensor, nn

from gnomon.ops.context import Op
from gnomon.planning.plan import Plan
from gnomon.recording.tape import Call, owned_tensors, record

Sums = tuple[Tensor, Tensor, Tensor]


def batch_sums(x: Tensor) -> Sums:
    """Number of positions, sum and sum of squares per channel of (N, C, ...), in float64."""
    flat = x.double().transpose(0, 1).flatten(1)
    return flat.new_tensor(flat.shape[1]), flat.sum(1), (flat * flat).sum(1)


def _by_batch(op: Op) -> bool:
    """Whether a norm that was given running statistics used those of the batch."""
    return "with_update" in op.name or (len(op.args) > 5 and op.args[5] is True)


class Watch:
    """Gathers, while a model runs in train mode, what these running statistics would be.

    Batch norms normalise with the batch's own statistics there, so every norm sees what it would
    see after calibration. apart: none did otherwise, so the passes themselves did not depend on
    these running statistics.
    """

    def __init__(self, model: nn.Module, names: Collection[str]) -> None:
        self._wanted = {id(t): n for n, t in owned_tensors(model).items() if n in names}
        self._sums: dict[tuple[str, int], Sums] = {}
        self.apart = True

    def __bool__(self) -> bool:
        return bool(self._wanted)

    def look(self, op: Op) -> None:
        """See one operation, right after it ran."""
        if not self._wanted:
            return
        arriving: Sums | None = None
        read = sum(id(t) in self._wanted for t in op.tensors())
        for position in (3, 4):  # running mean, running variance
            buffer = op.args[position] if len(op.args) > position else None
            if isinstance(buffer, Tensor) and id(buffer) in self._wanted:
                arriving = arriving or batch_sums(op.args[0])
                self._add((self._wanted[id(buffer)], position), arriving)
                read -= _by_batch(op)
        self.apart &= not read

    def _add(self, key: tuple[str, int], new: Sums) -> None:
        count, total, squares = new
        if key in self._sums:
            more = self._sums[key]
            count, total, squares = count + more[0], total + more[1], squares + more[2]
        self._sums[key] = count, total, squares

    def measured(self) -> dict[str, Tensor]:
        """Per buffer, one value per channel."""
        measured = {}
        for (name, position), (count, total, squares) in self._sums.items():
            variance = (squares - total**2 / count) / (count - 1).clamp(min=1)
            measured[name] = total / count if position == 3 else variance.clamp(min=0)
        return measured


def measure_statistics(
    model: nn.Module, calls: Sequence[Call], names: Collection[str]
) -> dict[str, Tensor]:
    """Batch statistics for these running statistics, from one train-mode pass per call."""
    watch = Watch(model, names)
    for call in calls if watch else ():
        record(model, call, training=True, fake=False, keep=False, on_op=watch.look)
    return watch.measured()


def statistics_of(plan: Plan) -> set[str]:
    """The grown running statistics that a plan wants measured."""
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
