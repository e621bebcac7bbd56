"""Record the ATen operations of a forward pass, and leave the model as it was.

A `TorchDispatchMode` sees every operation with the real `Parameter` objects as arguments; global
module hooks give the stack of modules it ran in. Small models run on real tensors (a few ms);
large ones, and those on `meta`, under `FakeTensorMode`, so that nothing is computed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy
import torch
import torch.nn.modules.module as module_hooks
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from gnomon.errors import Unsupported
from gnomon.ops.context import Op
from gnomon.recording.kept import has_say, keepers, renew
from gnomon.recording.snapshot import unchanged
from gnomon.recording.stand_ins import SETTLED, SHAPED

Call = tuple[tuple[Any, ...], dict[str, Any]]

# Beyond these sizes a forward pass on real tensors costs more than one on fake ones.
REAL_PARAMETERS = 30_000_000
REAL_INPUT_ENTRIES = 100_000


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Visit:
    """One call of a module: the operations [start, end) of the tape, what it got and returned."""

    module: nn.Module
    start: int
    end: int
    inputs: tuple[object, ...]
    output: object


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


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Appends every operation to `ops`; random ones give their mean, so runs can be compared."""

    def __init__(
        self,
        parameters: Iterable[Tensor],
        *,
        fake: FakeTensorMode | None,
        keep: bool = True,
        on_op: Callable[[Op], None] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._keep, self._on_op, self._watched = keep, on_op, keep or on_op is not None
        self.ops: list[Op] = []
        self.random: set[str] = set()
        self.visits: list[Visit] = []
        self.dtypes: set[torch.dtype] = set()
        self._stack: list[nn.Module] = []
        self._starts: list[int] = []
        self._fake = fake
        self._stand_ins = SETTLED if fake is None else SHAPED
        self._parameters = {} if fake else {p.untyped_storage()._cdata: p for p in parameters}
        self._overwritten: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is _DEVICE and self._fake is not None:
            return args[0].fake_device  # half of all calls; the long way gives the same
        kwargs = kwargs or {}
        name, is_mutable, is_random = _nature(func)
        if is_mutable and self._parameters:
            self._save_overwritten(args)
        if is_random:
            self.random.add(name)
        stand_in = self._stand_ins.get(name)
        if stand_in:
            out = stand_in(func, *args, **kwargs)
        elif is_mutable or self._fake is None:
            out = func(*args, **kwargs)
        else:
            out = func(*_for_fake(self._fake, args), **kwargs)
        outputs = _outputs(out)
        self.dtypes.update([o.dtype for o in outputs])
        if outputs and self._watched:
            shapes = tuple([tuple(o.shape) for o in outputs])  # squeeze_ and others change them
            op = Op(func, name, args, kwargs, outputs, shapes, tuple(self._stack))
            if self._keep:
                self.ops.append(op)
            if self._on_op:
                self._on_op(op)
        return out

    @property
    def wrote(self) -> bool:
        """Whether an operation wrote on a parameter."""
        return bool(self._overwritten)

    @contextlib.contextmanager
    def inside(self, *modules: nn.Module) -> Iterator[None]:
        """Operations that no forward ran belong to these modules."""
        self._stack += modules
        yield
        del self._stack[-len(modules) :]

    def _save_overwritten(self, args: tuple[Any, ...]) -> None:
        first = args[:1]  # in-place operations write their first argument
        for arg in first if first and isinstance(first[0], Tensor) else pytree.tree_leaves(first):
            if isinstance(arg, Tensor) and not isinstance(arg, FakeTensor):
                owner = self._parameters.pop(arg.untyped_storage()._cdata, None)
                if owner is not None:
                    self._overwritten.append((owner, owner.detach().clone()))

    def _entered(self, module: nn.Module, args: object) -> None:
        self._stack.append(module)
        self._starts.append(len(self.ops))

    def _left(self, module: nn.Module, args: tuple[object, ...], output: object) -> None:
        self._stack.pop()
        start = self._starts.pop()
        if self._keep:
            self.visits.append(Visit(module, start, len(self.ops), args, output))

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Record, with the module stack followed by global hooks."""
        hooks = []
        if self._watched:
            hooks.append(module_hooks.register_module_forward_pre_hook(self._entered))
            hooks.append(module_hooks.register_module_forward_hook(self._left, always_call=True))
        try:
            with self:
                yield
        finally:
            for hook in hooks:
                hook.remove()
            self.put_back()

    def put_back(self) -> None:
        """Give parameters that were written on their numbers again."""
        for owner, saved in self._overwritten:
            owner.data.copy_(saved)


def _outputs(out: object) -> tuple[Tensor, ...]:
    """The tensors that an operation gave."""
    if isinstance(out, Tensor):
        return (out,)
    return tuple([o for o in out if isinstance(o, Tensor)]) if isinstance(out, _SEVERAL) else ()


def _for_fake(mode: FakeTensorMode, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments, with fake parameters: what fake tensors give is cached only for fakes.

    Other real tensors stay: those are numbers of the code, which it may ask for.
    """
    return tuple([mode.from_tensor(x) if _is_real_parameter(x) else x for x in args])


def _is_real_parameter(value: object) -> bool:
    return isinstance(value, nn.Parameter) and not isinstance(value, FakeTensor)


_DEVICE = torch.ops.prim.device.default
_SEVERAL = (list, tuple)


@functools.cache
def _nature(func: torch._ops.OpOverload) -> tuple[str, bool, bool]:
    """An operation's name, whether it writes on an argument, whether it is random."""
    name = func._schema.name.partition("::")[2]
    return name, func._schema.is_mutable, torch.Tag.nondeterministic_seeded in func.tags


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
    """One forward pass in eval or train mode.

    keep:    whether to keep the operations (and with them every activation).
    gradients: whether autograd is on, as in training; forwards may ask.
    on_op:   called after each operation.
    Raises whatever the forward raises.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))  # composite operations hide in it
        stack.enter_context(torch.set_grad_enabled(gradients))
        modules, parameters, _ = stack.enter_context(unchanged(model))
        for device in {device.type for device in {p.device for p in parameters}} | {"cpu"}:
            if torch.amp.autocast_mode.is_autocast_available(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        fast_path = torch.backends.mha.get_fastpath_enabled()  # one opaque operation otherwise
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast_path)
        torch.backends.mha.set_fastpath_enabled(False)
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))  # kernels depend on the head's width
        stack.enter_context(_quiet())
        torch.default_generator.manual_seed(0)  # (torch.manual_seed would reach every device)
        args, kwargs = clone_inputs(call)
        mode = FakeTensorMode(allow_non_fake_inputs=True) if fake else None
        if mode is not None:
            on_meta = any(p.is_meta for p in parameters)
            args, kwargs = pytree.tree_map_only(
                Tensor, lambda x: mode.from_tensor(x.to("meta") if on_meta else x), (args, kwargs)
            )
            stack.enter_context(mode)
        have_say = any(map(has_say, modules))  # before one of them makes others of them
        if (training and have_say) or any(m.training is not training for m in modules):
            setting = Recorder(parameters, fake=mode, keep=False)
            stack.callback(setting.put_back)
            with setting:  # some models merge weights when a mode is set
                model.train(training)
        given = _tensors_only((args, kwargs))  # before the pass: it may take the inputs apart
        recorder = Recorder(parameters, fake=mode, keep=keep, on_op=on_op)
        stack.enter_context(recorder.running())
        for module in keepers(model).values() if have_say and not training else ():
            with recorder.inside(model, module):  # what they keep is computed on the tape
                renew(module)
        recorder.dtypes.clear()  # what was kept before is none of the pass's own
        result = model(*args, **kwargs)
    found = tensors_in(result)
    if not found:
        raise Unsupported(
            f"the model returns {type(result).__name__}, in which there is no tensor: nothing "
            f"could be proved of it. Give a wrapper whose forward returns its tensors"
        )
    return Recording(recorder.ops, given, found, recorder.random, recorder.visits, recorder.dtypes)


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
