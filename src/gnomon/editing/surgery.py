"""Apply a plan's edits in place, all or nothing: the only place that changes a user's model.

A tensor is resized with `set_` under `no_grad`, so that the `Parameter` stays the same object:
ties, hooks, param groups, EMA references and LSTM flat weights survive. (`swap_tensors` refuses
LSTMs and live exports; `.data =` leaves a trap for the next backward.)
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gnomon.editing.first_gradients import FirstGradients
from gnomon.editing.optimizers import RAISED, carried, carried_state, check_state
from gnomon.editing.settings import changed, fields, say
from gnomon.editing.turned_state import turned_gradient, turned_state
from gnomon.errors import InUse, Stale, Unsupported
from gnomon.planning.edit import AttributeEdit, TensorEdit
from gnomon.planning.fill import GROWING, Clock, empty_in_format_of, grown, in_format_of
from gnomon.planning.plan import Plan
from gnomon.planning.turned import gains_of, turned
from gnomon.recording.tape import owned_tensors
from gnomon.recording.thrift import Thrift


@dataclass
class Surgery:
    """What was done to a model, and how to take it back.

    seconds: of the edits, without the random draws; drawing: of the draws alone.
    thrift: what becomes of memory that is not needed at the moment.
    """

    old: dict[str, Tensor] = field(default_factory=dict)
    attributes: list[AttributeEdit] = field(default_factory=list)
    seconds: float = 0.0
    drawing: float = 0.0
    thrift: Thrift = field(default_factory=Thrift)
    _undo: list[Callable[[], None]] = field(default_factory=list)

    def on_undo(self, undo: Callable[[], None]) -> None:
        """Remember how to take back what was just done."""
        self._undo.append(undo)

    def undo(self) -> None:
        """Put every tensor, gradient, state and attribute back, newest first."""
        while self._undo:
            self._undo.pop()()


def operate(
    model: nn.Module, plan: Plan, optimizers: Sequence[Optimizer], surgery: Surgery
) -> None:
    """Apply a plan. On any error the caller undoes `surgery`, which says what was done so far.

    Raises Stale or Unsupported before anything is changed.
    """
    owned = owned_tensors(model)
    for edit in plan.edits:
        _check(owned, edit)
    _refuse_shared_memory(owned, plan.edits)
    for optimizer in optimizers:
        check_state(optimizer)
    start, clock = time.perf_counter(), Clock()
    gains = gains_of(plan, owned)
    # the largest first, while there is little else in memory
    for edit in sorted(plan.edits, key=lambda e: -prod(e.shape)):
        tensor, holders = owned[edit.name], _holders(optimizers, owned[edit.name])
        if plan.turns:
            state = [(o, turned_state(o, tensor, edit, plan, gains)) for o in holders]
            carry = partial(turned_gradient, edit=edit, plan=plan, gains=gains)
            new = in_format_of(tensor, turned(tensor, edit, plan, gains, clock.draws))
        else:
            state = [(o, carried_state(o, tensor, edit, plan)) for o in holders]
            carry = partial(carried, edit=edit, plan=plan, degree=1, start=0.0)
            new = grown(tensor, edit, plan, clock)
        _resize(surgery, tensor, edit, new, carry)
        surgery.thrift.done_with(surgery.old[edit.name])
        for optimizer, values in state:
            _set_state(surgery, optimizer, tensor, values)
            if any(key in RAISED for key in values):
                hook, take_off = FirstGradients.of(optimizer)
                surgery._undo += [take_off, hook.watch(tensor, edit, plan)]
    for attribute in plan.attributes:
        set_attribute(model, surgery, attribute)
    surgery.drawing = clock.total()
    surgery.seconds += time.perf_counter() - start - surgery.drawing


def hollow(model: nn.Module, plan: Plan, surgery: Surgery, *, fake: bool) -> None:
    """Bring a model into the plan's shapes without weights, to run it for shapes only.

    fake: it will run on fake tensors, so memory is reserved but never touched.
    """
    owned = owned_tensors(model)
    for edit in plan.edits:
        tensor, shape = owned[edit.name], plan.grown_shape(edit)
        before = tensor.detach()
        new = empty_in_format_of(before, shape)
        surgery._undo.append(_putting_back(tensor, before))
        with torch.no_grad():
            tensor.set_(new if fake else new.zero_())  # type: ignore[call-overload]
    for attribute in plan.attributes:
        set_attribute(model, surgery, attribute)


def _putting_back(tensor: Tensor, before: Tensor) -> Callable[[], None]:
    def undo() -> None:
        with torch.no_grad():
            tensor.set_(before)  # type: ignore[call-overload]

    return undo


def resize(model: nn.Module, plan: Plan) -> None:
    """Bring a model into the plan's shapes with zeros, for weights that are loaded afterwards.

    Raises Stale if the model is not the one the plan was made for.
    """
    owned, surgery = owned_tensors(model), Surgery()
    for edit in plan.edits:
        _check(owned, edit)
    for edit in plan.edits:
        tensor = owned[edit.name]
        with torch.no_grad():
            tensor.set_(tensor.new_zeros(plan.grown_shape(edit)))  # type: ignore[call-overload]
    for attribute in plan.attributes:
        set_attribute(model, surgery, attribute)


def _refuse_shared_memory(owned: dict[str, Tensor], edits: Sequence[TensorEdit]) -> None:
    """Different tensors over one memory would silently come apart."""
    homes: dict[int, str] = {}
    growing = {edit.name for edit in edits}
    for name, tensor in owned.items():
        if tensor.is_meta or tensor.layout != torch.strided or not tensor.numel():
            continue
        other = homes.setdefault(tensor.untyped_storage().data_ptr(), name)
        if other != name and growing & {name, other}:
            raise Unsupported(
                f"'{name}' and '{other}' share memory but are not the same Parameter, so growing "
                f"would untie them: tie them by assignment (a.weight = b.weight) first"
            )


def _check(owned: dict[str, Tensor], edit: TensorEdit) -> None:
    if edit.name not in owned:
        raise Stale(f"the plan edits '{edit.name}', which this model does not have: plan again")
    tensor = owned[edit.name]
    if tuple(tensor.shape) != edit.shape:
        raise Stale(
            f"'{edit.name}' has shape {tuple(tensor.shape)}, but the plan was made for "
            f"{edit.shape}: plan again"
        )
    if tensor.is_inference():
        raise Unsupported(f"'{edit.name}' was made in inference_mode and cannot grow: clone it")
    if tensor.dtype not in GROWING or tensor.layout != torch.strided:
        raise Unsupported(
            f"'{edit.name}' is {tensor.dtype}, {tensor.layout}: only dense floats grow"
        )


def held_parameters(model: nn.Module) -> set[str]:
    """The names of parameters that an autograd graph still holds.

    A parameter's AccumulateGrad node lives as long as some graph refers to it. So: fetch the node,
    mark it, drop it, fetch again. If the mark is still there, somebody else holds the node. (A
    frozen parameter has no such node: a loss that goes through it is not noticed.)
    """
    held = set()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not parameter.is_inference():
            _accumulator(parameter).metadata["gnomon"] = True
            if _accumulator(parameter).metadata.pop("gnomon", False):
                held.add(name)
    return held


def refuse_live_graph(plan: Plan, held: set[str]) -> None:
    """Raise InUse if the plan edits one of these parameters, or puts modules beside them."""
    if plan.modules and held:
        raise InUse(
            f"an autograd graph (an earlier loss, a DDP wrapper) still holds '{min(held)}', and "
            f"would not know the new modules: add them after optimizer.step(), drop the loss first "
            f"(del loss), wrap in DDP afterwards"
        )
    for edit in plan.edits:
        if edit.name in held:
            raise InUse(
                f"an autograd graph (an earlier loss, a DDP wrapper, a tensor that the model "
                f"keeps) still holds '{edit.name}': grow after optimizer.step(), drop the loss "
                f"first (del loss, model.train().eval() for what it keeps) or run the model once "
                f"under torch.no_grad(), wrap in DDP afterwards"
            )


def _accumulator(tensor: Tensor) -> Any:
    with torch.enable_grad():
        function = tensor.expand_as(tensor).grad_fn
    assert function is not None
    return function.next_functions[0][0]


def _holders(optimizers: Sequence[Optimizer], tensor: Tensor) -> list[Optimizer]:
    return [o for o in optimizers if tensor in o.state]


def _resize(
    surgery: Surgery,
    tensor: Tensor,
    edit: TensorEdit,
    new: Tensor,
    carry: Callable[[Tensor], Tensor],
) -> None:
    before, gradient = tensor.detach(), tensor.grad if tensor.is_leaf else None
    surgery.old[edit.name] = before

    def undo() -> None:
        tensor.grad = None
        with torch.no_grad():
            tensor.set_(before)  # type: ignore[call-overload]
        tensor.grad = gradient

    if gradient is not None and gradient.is_sparse:
        raise Unsupported(f"'{edit.name}' has a sparse gradient: call optimizer.zero_grad() first")
    wider = None if gradient is None else carry(gradient)
    surgery._undo.append(undo)
    tensor.grad = None
    with torch.no_grad():
        tensor.set_(new)  # type: ignore[call-overload]
    tensor.grad = wider


def _set_state(
    surgery: Surgery, optimizer: Optimizer, tensor: Tensor, values: dict[str, Tensor]
) -> None:
    state = optimizer.state[tensor]
    before = {key: state[key] for key in values}
    surgery._undo.append(lambda: state.update(before))
    state.update(values)


def set_attribute(model: nn.Module, surgery: Surgery, edit: AttributeEdit) -> None:
    """Change an integer, or a list or tuple of them, that a module keeps.

    Raises Stale if the module has no such attribute or it holds something else.
    """
    try:
        module = model.get_submodule(edit.path)
    except AttributeError:
        raise Stale(f"there is no module '{edit.path}': plan again") from None
    if "." in edit.name:
        _say(model, surgery, edit)
        return
    held = module.__dict__.get(edit.name)
    if _plain(held) != edit.old:
        raise Stale(f"'{edit.path}.{edit.name}' is {held!r}, not {edit.old!r}: plan again")
    new = list(edit.new) if isinstance(held, list) and isinstance(edit.new, tuple) else edit.new
    surgery._undo.append(lambda: module.__dict__.__setitem__(edit.name, held))
    surgery.attributes.append(edit)
    module.__dict__[edit.name] = new


def _say(model: nn.Module, surgery: Surgery, edit: AttributeEdit) -> None:
    """Change a field of settings. Raises Stale if there is none, or it holds something else."""
    name, _, field = edit.name.partition(".")
    config = vars(model.get_submodule(edit.path)).get(name)
    held = fields(config).get(field, _NOTHING) if hasattr(config, "__dict__") else _NOTHING
    if held is _NOTHING or _plain(held) != edit.old:
        raise Stale(f"'{edit.path}.{edit.name}' is not {edit.old!r}: plan again")
    undo = changed(model, edit.path, name, lambda config: say(config, field, edit.new))
    surgery._undo.append(undo)
    surgery.attributes.append(edit)


_NOTHING = object()


def _plain(value: object) -> object:
    return tuple(value) if isinstance(value, list | tuple) else value


@contextlib.contextmanager
def undone_on_error(surgery: Surgery) -> Any:
    """Undo on any error, an interrupt too, and let it through."""
    try:
        yield
    except BaseException:
        surgery.undo()
        raise
