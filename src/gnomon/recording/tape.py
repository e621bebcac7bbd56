"""Record the ATen operations of forward passes, and leave the model as it was.

Small models run on real tensors (a few ms); large ones, and those on `meta`, under
`FakeTensorMode`, so that nothing is computed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel

from gnomon.errors import Unsupported
from gnomon.ops.context import Op
from gnomon.recording.kept import has_say, keepers, renew
from gnomon.recording.recorder import Recorder, Visit
from gnomon.recording.snapshot import Kept, unchanged

Call = tuple[tuple[Any, ...], dict[str, Any]]

# Beyond these sizes a forward pass on real tensors costs more than one on fake ones.
REAL_PARAMETERS = 30_000_000
REAL_INPUT_ENTRIES = 100_000


@dataclasses.dataclass(eq=False)
class Recording:
    """One forward pass: its operations, input tensors, output tensors and calls of modules.

    random: the names of random operations. dtypes: of all that its operations gave.
    """

    ops: list[Op]
    inputs: list[Tensor]
    outputs: list[Tensor]
    random: set[str] = dataclasses.field(default_factory=set)
    visits: list[Visit] = dataclasses.field(default_factory=list)
    dtypes: set[torch.dtype] = dataclasses.field(default_factory=set)


def calls_of(example_inputs: object) -> list[Call]:
    """A tensor; a tuple = positional; a dict = keywords; a list = several of these.

    Raises Unsupported for an empty list or anything that holds no tensor.
    """
    several = example_inputs if isinstance(example_inputs, list) else [example_inputs]
    calls: list[Call] = []
    for one in several:
        if isinstance(one, tuple):
            calls.append((one, {}))
        elif isinstance(one, Mapping):
            calls.append(((), dict(one)))
        else:
            calls.append(((one,), {}))
    if any(not x.numel() for call in calls for x in _tensors_only(call)):
        raise Unsupported("an example input is empty: give one with at least one entry")
    if not calls or not all(_tensors_only(call) for call in calls):
        raise Unsupported(
            f"no tensor is found in example_inputs ({type(example_inputs).__name__}): give a "
            f"tensor, a tuple (positional), a dict (keywords), or a list of these (several calls)"
        )
    return calls


def _tensors_only(value: object) -> list[Tensor]:
    return [x for x in pytree.tree_leaves(value) if isinstance(x, Tensor)]


def tensors_in(value: object) -> list[Tensor]:
    """All tensors in a value: in containers, dataclasses and plain objects; numbers as tensors."""
    found: list[Tensor] = []
    _gather(value, found, set())
    return found


def _gather(value: Any, found: list[Tensor], seen: set[int]) -> None:
    if isinstance(value, Tensor):
        found.append(value)
    elif isinstance(value, bool | int | float):
        found.append(torch.tensor(value))
    elif isinstance(value, numpy.ndarray | numpy.generic) and value.dtype.kind in "biuf":
        found.append(torch.from_numpy(numpy.array(value)))
    elif id(value) not in seen and not isinstance(value, str | bytes | type | nn.Module):
        seen.add(id(value))
        for part in _parts(value):
            _gather(part, found, seen)


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return value.values()
    if isinstance(value, list | tuple | set | frozenset):
        return value
    slots = [getattr(value, s, None) for s in getattr(type(value), "__slots__", ())]
    return [*getattr(value, "__dict__", {}).values(), *slots]


def owned_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters, then buffers, by name; one that is shared appears once."""
    seen: set[int] = set()
    owned: dict[str, Tensor] = {}
    modules = list(model.named_modules())
    held = [(path, module._parameters) for path, module in modules if module._parameters]
    held += [(path, module._buffers) for path, module in modules if module._buffers]
    for path, tensors in held:
        prefix = f"{path}." if path else ""
        for name, tensor in tensors.items():
            if tensor is not None and id(tensor) not in seen:
                seen.add(id(tensor))
                owned[prefix + name] = tensor
    return owned


def clone_inputs(call: Call) -> Call:
    """Fresh input tensors, so that a forward that modifies its input leaves the caller's alone."""
    args, kwargs = call
    return tuple(map(_cloned, args)), {name: _cloned(value) for name, value in kwargs.items()}


def _cloned(value: Any) -> Any:
    if type(value) is Tensor:  # the rule, at a tenth of the price
        return value.detach().clone()
    return pytree.tree_map_only(Tensor, lambda x: x.detach().clone(), value)


def record(
    model: nn.Module,
    call: Call,
    *,
    training: bool,
    fake: bool,
    keep: bool = True,
    gradients: bool = False,
    on_op: Callable[[Op], None] | None = None,
) -> Recording:
    """One forward pass in eval or train mode. Several: `runs_of`.

    keep:    whether to keep the operations (and with them every activation).
    gradients: whether autograd is on, as in training; forwards may ask.
    on_op:   called after each operation.
    Raises whatever the forward raises.
    """
    with runs_of(model) as runs:
        return runs.record(
            call, training=training, fake=fake, keep=keep, gradients=gradients, on_op=on_op
        )


def record_each(
    model: nn.Module, calls: Iterable[Call], *, fake: bool, keep: bool = True
) -> list[Recording]:
    """Every call in eval mode, then in train mode."""
    with runs_of(model) as runs:
        return [
            runs.record(call, training=training, fake=fake, keep=keep)
            for call in calls
            for training in (False, True)
        ]


@contextlib.contextmanager
def runs_of(model: nn.Module) -> Iterator[Runs]:
    """Several passes of a model, each from where it was; between them it is not put back yet.

    To remember what hangs on a small model takes as long as a third of its pass.
    """
    # composite operations hide in inference mode
    with torch.inference_mode(False), torch.no_grad(), unchanged(model) as kept:
        yield Runs(model, kept)


class Runs:
    """Runs one model, as often as it is asked."""

    def __init__(self, model: nn.Module, kept: Kept) -> None:
        self._model, self._kept = model, kept
        self._ran = False

    def record(
        self,
        call: Call,
        *,
        training: bool,
        fake: bool,
        keep: bool = True,
        gradients: bool = False,
        on_op: Callable[[Op], None] | None = None,
        through: Callable[..., object] | None = None,
    ) -> Recording:
        """As the function of this name. through: what runs the model, if not its own call."""
        self.put_back()
        self._ran = True
        self._kept.lay_gradients_aside()
        modules, parameters, _ = self._kept.parts
        with contextlib.ExitStack() as stack:
            _set_up(stack, parameters, gradients)
            args, kwargs = clone_inputs(call)
            mode = FakeTensorMode(allow_non_fake_inputs=True) if fake else None
            if mode is not None:
                args, kwargs = _faked((args, kwargs), mode, parameters)
                stack.enter_context(mode)
            have_say = any(map(has_say, modules))  # before one of them makes others of them
            if (training and have_say) or any(m.training is not training for m in modules):
                setting = Recorder(parameters, fake=mode, keep=False)
                stack.callback(setting.put_back)
                with setting:  # some models merge weights when a mode is set
                    self._model.train(training)
            given = _tensors_only((args, kwargs))  # before the pass: it may take the inputs apart
            recorder = Recorder(parameters, fake=mode, keep=keep, on_op=on_op)
            stack.enter_context(recorder.running())
            for module in keepers(self._model).values() if have_say and not training else ():
                with recorder.inside(self._model, module):  # what they keep is computed on the tape
                    renew(module)
            recorder.dtypes.clear()  # what was kept before is none of the pass's own
            result = (through or self._model)(*args, **kwargs)
        found = tensors_in(result)
        if not found:
            raise Unsupported(
                f"the model returns {type(result).__name__}, in which there is no tensor: nothing "
                f"could be proved of it. Give a wrapper whose forward returns its tensors"
            )
        return Recording(
            recorder.ops, given, found, recorder.random, recorder.visits, recorder.dtypes
        )

    def put_back(self) -> None:
        """Bring the model where it was before the last pass, if there was one."""
        if self._ran:
            self._kept.put_back()
        self._ran = False


def _set_up(
    stack: contextlib.ExitStack, parameters: Sequence[nn.Parameter], gradients: bool
) -> None:
    """What makes a pass the same everywhere and always."""
    stack.enter_context(torch.set_grad_enabled(gradients))
    for device in {device.type for device in {p.device for p in parameters}} | {"cpu"}:
        if torch.amp.autocast_mode.is_autocast_available(device):
            stack.enter_context(torch.autocast(device, enabled=False))
    fast_path = torch.backends.mha.get_fastpath_enabled()  # one opaque operation otherwise
    stack.callback(torch.backends.mha.set_fastpath_enabled, fast_path)
    torch.backends.mha.set_fastpath_enabled(False)
    stack.enter_context(sdpa_kernel(SDPBackend.MATH))  # kernels depend on the head's width
    stack.enter_context(_quiet())
    torch.default_generator.manual_seed(0)  # (torch.manual_seed would reach every device)


def _faked(call: Call, mode: FakeTensorMode, parameters: Sequence[nn.Parameter]) -> Call:
    on_meta = any(p.is_meta for p in parameters)
    args, kwargs = pytree.tree_map_only(
        Tensor, lambda x: mode.from_tensor(x.to("meta") if on_meta else x), call
    )
    return args, kwargs


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Fake tensors log every shape that does not fit; here that is an answer, not an error."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    log.addFilter(_nothing)
    try:
        yield
    finally:
        log.removeFilter(_nothing)


def _nothing(_: logging.LogRecord) -> bool:
    return False


def wants_fake(model: nn.Module, calls: Sequence[Call]) -> bool:
    """Whether recording on real tensors would be slow or impossible."""
    parameters = list(model.parameters())
    entries = sum(x.numel() for call in calls for x in tensors_in(call))
    return (
        any(p.is_meta for p in parameters)
        or sum(p.numel() for p in parameters) > REAL_PARAMETERS
        or entries > REAL_INPUT_ENTRIES
    )
