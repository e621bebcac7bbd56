"""Record the ATen operations of a forward pass, and leave the model as it was.

A `TorchDispatchMode` sees every operation with the real `Parameter` objects as arguments; global
module hooks give the stack of modules it ran in. Small models run on real tensors (a few ms);
large ones, and those on `meta`, under `FakeTensorMode`, so that nothing is computed.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy
import torch
import torch.nn.modules.module as module_hooks
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from gnomon.errors import Unsupported
from gnomon.ops.context import Op

Call = tuple[tuple[Any, ...], dict[str, Any]]

# Beyond these sizes a forward pass on real tensors costs more than one on fake ones.
REAL_PARAMETERS = 30_000_000
REAL_INPUT_ENTRIES = 100_000


@dataclasses.dataclass(eq=False)
class Recording:
    """One forward pass: its operations, input tensors and output tensors."""

    ops: list[Op]
    inputs: list[Tensor]
    outputs: list[Tensor]
    random: set[str] = dataclasses.field(default_factory=set)


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
    if not calls or not all(tensors_in(call) for call in calls):
        raise Unsupported(
            f"example_inputs must hold tensors, not {type(example_inputs).__name__}: give a "
            f"tensor, a tuple (positional), a dict (keywords), or a list of these (several calls)"
        )
    return calls


def tensors_in(value: object) -> list[Tensor]:
    """All tensors in nested lists, tuples, mappings and dataclasses."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [t for v in value.values() for t in tensors_in(v)]
    if isinstance(value, list | tuple):
        return [t for v in value for t in tensors_in(v)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [t for f in dataclasses.fields(value) for t in tensors_in(getattr(value, f.name))]
    return []


def owned_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters, then buffers, by name; one that is shared appears once."""
    seen: dict[int, str] = {}
    owned: dict[str, Tensor] = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if id(tensor) not in seen:
            seen[id(tensor)] = name
            owned[name] = tensor
    return owned


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Appends every operation to `ops`; random ones give their mean, so runs can be compared."""

    def __init__(
        self,
        model: nn.Module,
        *,
        fake: bool,
        keep: bool = True,
        on_op: Callable[[Op], None] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._keep, self._on_op = keep, on_op
        self.ops: list[Op] = []
        self.random: set[str] = set()
        self._stack: list[nn.Module] = []
        self._fake = fake
        self._parameters = (
            {} if fake else {p.untyped_storage()._cdata: p for p in model.parameters()}
        )
        self._overwritten: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.partition("::")[2]
        if func._schema.is_mutable and self._parameters:
            self._save_overwritten(args)
        settled = None
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.random.add(name)
            settled = None if self._fake else SETTLED.get(name)
        out = settled(func, *args, **kwargs) if settled else func(*args, **kwargs)
        several = out if isinstance(out, list | tuple) else [out]
        outputs = tuple(o for o in several if isinstance(o, Tensor))
        if outputs and (self._keep or self._on_op):
            op = Op(func, name, args, kwargs, outputs, tuple(self._stack))
            if self._keep:
                self.ops.append(op)
            if self._on_op:
                self._on_op(op)
        return out

    def _save_overwritten(self, args: tuple[Any, ...]) -> None:
        for arg in args[:1]:  # in-place operations write their first argument
            if isinstance(arg, Tensor) and not pytree.tree_any(_is_fake, arg):
                owner = self._parameters.pop(arg.untyped_storage()._cdata, None)
                if owner is not None:
                    self._overwritten.append((owner, owner.detach().clone()))

    def _left(self, module: nn.Module, args: object, output: object) -> None:
        self._stack.pop()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Record, with the module stack followed by global hooks."""
        before = module_hooks.register_module_forward_pre_hook(
            lambda module, _: self._stack.append(module)
        )
        after = module_hooks.register_module_forward_hook(self._left, always_call=True)
        try:
            with self:
                yield
        finally:
            before.remove()
            after.remove()
            for owner, saved in self._overwritten:
                owner.data.copy_(saved)


def _is_fake(value: object) -> bool:
    return isinstance(value, torch._subclasses.fake_tensor.FakeTensor)


def _filled(value: Callable[..., Any]) -> Callable[..., Any]:
    """A settled random fill: every entry is the distribution's mean."""
    return lambda _, x, *args, **kwargs: x.fill_(value(*args, **kwargs))


def _dropout(_: object, x: Tensor, p: float, train: bool | None) -> tuple[Tensor, Tensor]:
    return x.clone(), torch.ones_like(x, dtype=torch.bool)


def _rrelu(_: object, x: Tensor, noise: Tensor, low: float, high: float, *rest: object) -> Tensor:
    return torch.nn.functional.leaky_relu(x, (low + high) / 2)


def _made(value: float) -> Callable[..., Any]:
    return lambda func, *args, **kwargs: func(*args, **kwargs).fill_(value)


# What the random operations give while functions are compared (by name of the operation).
SETTLED: dict[str, Callable[..., Any]] = {
    "bernoulli_": _filled(lambda p=0.5, **_: p),
    "bernoulli": lambda _, x, p=None, **__: x.clone() if p is None else torch.full_like(x, p),
    "uniform_": _filled(lambda low=0.0, high=1.0, **_: (low + high) / 2),
    "normal_": _filled(lambda mean=0.0, std=1.0, **_: mean),
    "native_dropout": _dropout,
    "rrelu_with_noise": _rrelu,
    "rand": _made(0.5),
    "rand_like": _made(0.5),
    "randn": _made(0.0),
    "randn_like": _made(0.0),
}


@contextlib.contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Put everything back that a forward pass may leave behind: attributes, buffers, generators.

    Forward passes cache tensors in attributes, some with fake tensors in them; the next real pass
    would then crash. Containers keep their identity and get their old contents.
    """
    attributes = [(m, dict(m.__dict__), _containers(m)) for m in model.modules()]
    buffers = [(b, b.detach().clone()) for b in model.buffers() if not b.is_meta]
    python, numpy_state = random.getstate(), numpy.random.get_state()
    with torch.random.fork_rng(devices=_cuda_devices(model)):
        try:
            yield
        finally:
            random.setstate(python)
            numpy.random.set_state(numpy_state)
            for module, attribute, containers in attributes:
                module.__dict__.clear()
                module.__dict__.update(attribute)
                for key, content in containers.items():
                    _refill(attribute[key], content)
            for buffer, saved in buffers:
                if not _same_bits(buffer, saved):
                    with torch.no_grad():
                        buffer.copy_(saved)


def _containers(module: nn.Module) -> dict[str, Any]:
    return {
        key: copy.copy(value)
        for key, value in module.__dict__.items()
        if isinstance(value, dict | list | set)
    }


def _refill(container: Any, content: Any) -> None:
    if container == content if isinstance(content, set) else _same_items(container, content):
        return
    container.clear()
    if isinstance(container, list):
        container.extend(content)
    else:
        container.update(content)


def _same_items(a: Any, b: Any) -> bool:
    if len(a) != len(b):
        return False
    if isinstance(a, list):
        return all(x is y for x, y in zip(a, b, strict=True))
    pairs = zip(a.items(), b.items(), strict=True)
    return all(k is j and v is w for (k, v), (j, w) in pairs)


def _same_bits(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())


def _cuda_devices(model: nn.Module) -> list[int]:
    found = {t.device.index or 0 for t in model.parameters() if t.device.type == "cuda"}
    return sorted(found)


def clone_inputs(call: Call) -> Call:
    """Fresh input tensors, so that a forward that modifies its input leaves the caller's alone."""
    args, kwargs = pytree.tree_map_only(Tensor, lambda x: x.detach().clone(), call)
    return args, kwargs


def record(
    model: nn.Module,
    call: Call,
    *,
    training: bool,
    fake: bool,
    keep: bool = True,
    on_op: Callable[[Op], None] | None = None,
    started: Callable[[Recorder], None] | None = None,
) -> Recording:
    """One forward pass in eval or train mode.

    keep:    whether to keep the operations (and with them every activation).
    on_op:   called after each operation.
    started: called with the recorder before the pass, to look at it if the pass fails.
    Raises whatever the forward raises.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(unchanged(model))
        fast_path = torch.backends.mha.get_fastpath_enabled()  # one opaque operation otherwise
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast_path)
        torch.backends.mha.set_fastpath_enabled(False)
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))  # kernels depend on the head's width
        stack.enter_context(_quiet())
        torch.manual_seed(0)
        args, kwargs = clone_inputs(call)
        if fake:
            mode = FakeTensorMode(allow_non_fake_inputs=True)
            on_meta = any(p.is_meta for p in model.parameters())
            args, kwargs = pytree.tree_map_only(
                Tensor, lambda x: mode.from_tensor(x.to("meta") if on_meta else x), (args, kwargs)
            )
            stack.enter_context(mode)
        model.train(training)
        recorder = Recorder(model, fake=fake, keep=keep, on_op=on_op)
        if started is not None:
            started(recorder)
        stack.enter_context(recorder.running())
        result = model(*args, **kwargs)
    return Recording(recorder.ops, tensors_in((args, kwargs)), tensors_in(result), recorder.random)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Fake tensors log every shape that does not fit; here that is an answer, not an error."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


def wants_fake(model: nn.Module, calls: Sequence[Call]) -> bool:
    """Whether recording on real tensors would be slow or impossible."""
    parameters = list(model.parameters())
    entries = sum(x.numel() for call in calls for x in tensors_in(call))
    return (
        any(p.is_meta for p in parameters)
        or sum(p.numel() for p in parameters) > REAL_PARAMETERS
        or entries > REAL_INPUT_ENTRIES
    )
