"""Zero starts: a network that computes zero while all of its parameters stay free and alive.

    z(x) = tail( sum_j V_j a(U_j g(x)) + b )      the U_j of a class equal,  sum_j V_j = 0

It is the one equation with no old channels: the hidden channels carry fresh signals, each at least
twice, and V' E = 0. Nothing is drawn: the first writer of each class is copied to its twins, and
the readers keep what of their initial values does not reach the output.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gnomon.adding.ending import Ending, ending, root
from gnomon.analysis.groups import Analysis, Group, analyse
from gnomon.axes import resolve
from gnomon.draw import Draw
from gnomon.embedding import Embedding, monomial, signal_sums
from gnomon.errors import CannotPreserve, NotProved, Unsupported
from gnomon.planning.edit import TensorEdit
from gnomon.planning.fill import GROWING
from gnomon.planning.plan import Plan
from gnomon.planning.planner import Planner
from gnomon.proof.verify import TOLERANCE
from gnomon.recording.tape import Call, Recording, calls_of, owned_tensors, record, record_each
from gnomon.rules import R2R
from gnomon.rules.base import on_grid
from gnomon.wrapped import refuse_wrapped

_BY_KIND = {nn.Linear: 0, nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}


@dataclass(frozen=True, eq=False)
class ZeroStart:
    """Which channels are twins, and every tensor that this concerns.

    scale: the largest that the module gave before, or that reads the twins: rounding is of that.
    """

    group: str
    plan: Plan
    bias: str | None
    root: float
    scale: float = 1.0


def start_at_zero(
    module: nn.Module,
    example_inputs: object = None,
    *,
    twins: int = 2,
    allow_dead: bool = False,
) -> nn.Module:
    """Make a module compute zero, in place, with all parameters free and alive; returns it.

    The channels that its last layer reads become classes of `twins` equal channels (one class is
    larger where the width is no multiple); the last layer's weights are moved to class sums of
    zero, its bias to a root of what stands behind it. Whatever stands before is arbitrary, norms
    too. Twins part at the first step, since their gradients differ.

    example_inputs: as for `Grower`; without them random ones are made for the first layer.
    allow_dead:     accept an ending that is flat at its root, such as ReLU: it will not learn.

    Raises CannotPreserve if the module cannot be zero and alive (it ends in a norm, a sigmoid, a
    ReLU, a sum of paths; it has one layer only), Unsupported or NotProved; it is unchanged then.
    Source: Painter, Towards a More Complete Theory of FPTs, eq. 19-22, in corrected form.
    """
    if isinstance(twins, bool) or not isinstance(twins, int) or twins < 2:
        raise ValueError(f"twins must be a whole number of 2 or more, not {twins!r}")
    refuse_wrapped(module)
    if any(t.is_meta for t in owned_tensors(module).values()):
        raise Unsupported(f"a {type(module).__name__} on 'meta' has no weights to start from")
    calls = calls_of(guessed_inputs(module) if example_inputs is None else example_inputs)
    with torch.inference_mode(False):
        analysis = analyse(module, calls, {})
        start = plan_zero(module, calls, analysis, twins=twins, allow_dead=allow_dead)
        with _unless_it_fails(module, start):
            _become_zero(module, start, 0)
            prove_zero(module, calls, start)
    return module


def make_zero(
    module: nn.Module,
    calls: list[Call],
    analysis: Analysis,
    *,
    twins: int,
    allow_dead: bool,
    seed: int = 0,
) -> ZeroStart:
    """As `start_at_zero`, for a module that was analysed on the calls; returns what was done.

    The equation holds on the stored tensors then; `prove_zero` runs the module to see.
    """
    with torch.inference_mode(False):
        start = plan_zero(module, calls, analysis, twins=twins, allow_dead=allow_dead)
        with _unless_it_fails(module, start):
            _become_zero(module, start, seed)
    return start


def _become_zero(module: nn.Module, start: ZeroStart, seed: int) -> None:
    write_zero(owned_tensors(module), start, seed)
    check_zero(module, start)


@contextlib.contextmanager
def _unless_it_fails(module: nn.Module, start: ZeroStart) -> Iterator[None]:
    """Give the tensors that a zero start concerns their numbers back on any error."""
    owned = owned_tensors(module)
    touched = [owned[e.name] for e in start.plan.edits]
    touched += [owned[start.bias]] if start.bias else []
    before = [t.detach().clone() for t in touched]
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for tensor, old in zip(touched, before, strict=True):
                tensor.copy_(old)
        raise


def plan_zero(
    module: nn.Module, calls: list[Call], analysis: Analysis, *, twins: int, allow_dead: bool
) -> ZeroStart:
    """Find the last two layers and the twins between them. Raises CannotPreserve."""
    what = f"a {type(module).__name__} cannot start at zero"
    try:
        first = analysis.recordings[0]
        if analysis.fake:
            first = record(module, calls[0], training=False, fake=False)
        end = ending(module, first)
        b = root(end, allow_dead=allow_dead)
        group = hidden_of(analysis, end)
    except CannotPreserve as refusal:
        raise CannotPreserve(f"{what}: {refusal}") from None
    e = classes_of_twins(resolve(group.leaf).size, twins)
    plan = Planner(module, analysis, {group.name: e}, R2R()).draft()
    for edit in plan.edits:
        partly = [d for d in edit.dims if d.role == "read" and plan.embedding(d.form).old]
        if partly and edit.name in end.weights:
            raise CannotPreserve(f"{what}: '{edit.name}' reads other channels besides its hidden")
    outputs = _outputs(module, calls) if analysis.fake else _outputs_of(analysis.recordings)
    scale = max(_largest(outputs), _largest_reader(module, plan))
    return ZeroStart(group.name, plan, end.bias, b, scale)


def hidden_of(analysis: Analysis, end: Ending) -> Group:
    """The channels that the last layer reads, if something inside the module writes them."""
    read = [
        group
        for group in analysis.groups
        if any(s.name in end.weights and s.role == "read" for s in group.slots)
    ]
    free = [g for g in read if g.verdict in ("growable", "normed") and not g.linked]
    wide = [g for g in free if resolve(g.leaf).size > 1]
    if wide:
        return max(wide, key=lambda g: resolve(g.leaf).size)
    layer = ", ".join(sorted(end.weights))
    if not read:
        raise CannotPreserve(
            f"its last layer ({layer}) reads no group of channels that could be twins: a single "
            f"channel, or with weights that are computed and not stored"
        )
    if free:
        raise CannotPreserve(f"its last layer ({layer}) reads fewer than two channels of its own")
    raise CannotPreserve(
        f"the channels that its last layer ({layer}) reads cannot be twins: {read[0].reason}. "
        f"A zero start needs two layers, one behind the other"
    )


def classes_of_twins(n: int, twins: int) -> Embedding:
    """n channels in neighbouring classes of `twins`; the first takes up what is left over."""
    classes = max(1, n // twins)
    source = torch.arange(classes).repeat_interleave(twins)[:n]
    more = torch.zeros(n - source.numel(), dtype=torch.int64)
    return monomial(torch.cat([more, source]), 0, classes)


@torch.no_grad()
def write_zero(owned: dict[str, Tensor], start: ZeroStart, seed: int) -> None:
    """Make the twins equal, their readers cancel, and set the last bias to its root."""
    for edit in start.plan.edits:
        tensor = owned[edit.name]
        if tensor.dtype not in GROWING or tensor.is_meta or not bool(tensor.isfinite().all()):
            raise Unsupported(f"'{edit.name}' holds no finite dense floats")
        new = tensor.detach()
        for d in edit.dims:
            e = start.plan.embedding(d.form)
            if d.role != "read":
                new = new.index_select(d.dim, e.firsts.to(new.device))
        for d in edit.dims:
            e = start.plan.embedding(d.form)
            if d.role == "read":
                new = _cancelled(new, d.dim, e, Draw(seed, edit.name, d.dim))
        tensor.copy_(new)
    if start.bias:
        owned[start.bias].fill_(start.root)


@torch.no_grad()
def equalise(module: nn.Module, start: ZeroStart) -> None:
    """Give followers of twins the first one's values, after something wrote on them."""
    owned = owned_tensors(module)
    for edit in start.plan.edits:
        if all(d.role == "follow" for d in edit.dims):
            for d in edit.dims:
                index = start.plan.embedding(d.form).firsts
                tensor = owned[edit.name]
                tensor.copy_(tensor.index_select(d.dim, index.to(tensor.device)))


def _cancelled(x: Tensor, dim: int, e: Embedding, draw: Draw) -> Tensor:
    """Readers with class sums of zero, exactly in their dtype, and with the spread they had."""
    shape = x.shape
    columns = x.double().cpu().movedim(dim, 0).reshape(shape[dim], -1)
    new = columns.to(x.dtype, copy=True)
    for signals, channels in e.classes:
        fresh = channels[signals >= e.old]
        count, r = fresh.shape
        if not count:
            continue
        free = columns[fresh]  # (C, r, rest)
        free = (free - free.mean(1, keepdim=True)) * math.sqrt(r / (r - 1))
        if not bool(free.any()):  # equal or zero readers would leave their writers dead
            draw.std = math.sqrt(2 / max(1, math.prod(shape[1:])))
            drawn = draw.weights(tuple(free.shape))
            free = drawn - drawn.mean(1, keepdim=True)
        most = (free[:, :-1] if r == 2 else on_grid(free[:, :-1])).to(x.dtype)
        last = -most.double().sum(1, keepdim=True).to(x.dtype)
        new[fresh] = torch.cat([most, last], 1)
    rest = [size for i, size in enumerate(shape) if i != dim]
    return new.reshape(shape[dim], *rest).movedim(0, dim).to(x.device)


def check_zero(module: nn.Module, start: ZeroStart) -> None:
    """The equation on the stored tensors: V' E = 0 for readers, equal rows for twins.

    Raises NotProved with the tensor's name.
    """
    owned = owned_tensors(module)
    for edit in start.plan.edits:
        problem = _unequal(owned[edit.name].detach(), edit, start.plan)
        if problem:
            raise NotProved(f"'{edit.name}' does not start at zero: {problem}")


def _unequal(x: Tensor, edit: TensorEdit, plan: Plan) -> str:
    for d in edit.dims:
        e = plan.embedding(d.form)
        if d.role != "read":
            same = x.index_select(d.dim, e.firsts.to(x.device))
            if not torch.equal(same, x):
                return f"twins differ along dimension {d.dim}"
            continue
        columns = x.double().cpu().movedim(d.dim, 0).reshape(1, x.shape[d.dim], -1)
        if bool(signal_sums(columns, e)[:, e.old :].any()):
            return f"its readers do not cancel along dimension {d.dim}"
    return ""


def _outputs(module: nn.Module, calls: list[Call]) -> list[Tensor]:
    return _outputs_of(record_each(module, calls, fake=False, keep=False))


def _outputs_of(runs: Sequence[Recording]) -> list[Tensor]:
    """What all of these passes returned."""
    return [y.detach() for run in runs for y in run.outputs]


def _largest(outputs: Sequence[Tensor]) -> float:
    """The largest output: what rounding is relative to."""
    found = [float(y.abs().max().double()) for y in outputs if y.numel()]
    largest = max(found, default=0.0)
    return largest if 0 < largest < math.inf else 1.0


def _largest_reader(module: nn.Module, plan: Plan) -> float:
    """The largest weight of what cancels: a module that is zero already has no outputs to tell."""
    owned = owned_tensors(module)
    names = [e.name for e in plan.edits if any(d.role == "read" for d in e.dims)]
    return max((float(owned[n].detach().abs().max().double()) for n in names), default=0.0)


def prove_zero(module: nn.Module, calls: list[Call], start: ZeroStart) -> None:
    """Run a module that was made zero, in both modes. Raises NotProved unless it is."""
    for y in _outputs(module, calls):
        limit = TOLERANCE.get(y.dtype, 4 * torch.finfo(y.dtype).eps)
        largest = float(y.abs().max().double()) / start.scale if y.numel() else 0.0
        if not largest <= limit:
            raise NotProved(
                f"a {type(module).__name__} still computes {largest:.1e} of its former output "
                f"after its last layer was made to cancel: something mixes the hidden channels "
                f"in a way that its tape does not show. Everything was put back"
            )


def guessed_inputs(module: nn.Module) -> Tensor:
    """Random inputs for the first layer of a module. Raises Unsupported if they cannot be told."""
    for layer in module.modules():
        spatial = next((n for cls, n in _BY_KIND.items() if isinstance(layer, cls)), None)
        if spatial is None:
            continue
        weight = layer.weight
        assert isinstance(weight, Tensor)
        channels = weight.shape[1] * getattr(layer, "groups", 1)
        reach = [
            d * (k - 1) + 8
            for k, d in zip(weight.shape[2:], getattr(layer, "dilation", ()), strict=False)
        ]
        draw = torch.Generator().manual_seed(0)
        return torch.randn(4, channels, *reach, generator=draw).to(weight)
    raise Unsupported(
        f"a {type(module).__name__} does not begin with a linear or convolutional layer: give "
        f"example_inputs"
    )
