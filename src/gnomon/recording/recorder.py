"""See every ATen operation of a pass, and every module that runs in it.

A `TorchDispatchMode` sees every operation with the real `Parameter` objects as arguments; global
module hooks give the stack of modules it ran in.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.modules.module as module_hooks
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from gnomon.ops.context import Op
from gnomon.recording.stand_ins import SETTLED, SHAPED


@dataclass(frozen=True, eq=False, slots=True)
class Visit:
    """One call of a module: the operations [start, end) of the tape, what it got and returned."""

    module: nn.Module
    start: int
    end: int
    inputs: tuple[object, ...]
    output: object


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
                if owner is not None:  # its storage: `.data` may be assigned to it afterwards
                    held = owner.detach()
                    self._overwritten.append((held, held.clone()))

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
        for held, saved in self._overwritten:
            held.copy_(saved)


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
