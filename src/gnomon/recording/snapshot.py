"""Put everything back that a forward pass may leave behind.

Forward passes cache tensors in attributes (some with fake tensors in them: the next real pass
would then crash), count calls, fill key-value caches, advance generators. Whatever hangs on the
model's modules is looked at: containers and plain objects, however deep, tensors, generators.
Everything keeps its identity and gets its old contents.
"""

from __future__ import annotations

import contextlib
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from operator import is_
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.autograd.grad_mode import _unsafe_preserve_version_counter

_PLAIN = (int, float, complex, str, bytes, bool, type(None), type, torch.dtype, torch.device)
# Most values are of one of these kinds: nothing to look into. (Parameters: see `keep_storage`.)
_PLAIN_ITSELF = frozenset((*_PLAIN, nn.Parameter))
_CONTAINERS = frozenset((dict, OrderedDict, list, set, deque))
_Restore = Callable[[], None]


@contextlib.contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Restore attributes, buffers, parameters' storages and the global generators afterwards."""
    modules = list(model.modules())
    snapshot = _Snapshot(modules)
    snapshot.visit([module.__dict__ for module in modules])
    parameters = _distinct(p for module in modules for p in module._parameters.values())
    buffers = _distinct(b for module in modules for b in module._buffers.values())
    for parameter in parameters:
        snapshot.keep_storage(parameter)
    python, numpy_state = random.getstate(), numpy.random.get_state()
    devices = {t.device.index or 0 for t in parameters if t.is_cuda}
    # A loss that is still alive counts writes to what it saved; ours are taken back.
    counters = _unsafe_preserve_version_counter((*parameters, *buffers))
    with counters, torch.random.fork_rng(devices=sorted(devices)):
        try:
            yield
        finally:
            random.setstate(python)
            numpy.random.set_state(numpy_state)
            snapshot.restore()


def _distinct(tensors: Iterable[Any]) -> list[Any]:
    return list({id(t): t for t in tensors if t is not None}.values())


class _Snapshot:
    """What hung on the modules, and functions that put it back."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._seen = set(map(id, modules))
        self._kept: list[object] = [modules]  # ids are keys, so nothing may be freed meanwhile
        self._empty: list[Any] = []  # most containers of a module hold nothing
        self._dicts: list[tuple[dict[Any, Any], dict[Any, Any]]] = []
        self._restore: list[_Restore] = []

    def restore(self) -> None:
        for value in self._empty:
            if value:
                value.clear()
        for held, content in self._dicts:
            if not _same_entries(held, content):
                held.clear()
                held.update(content)
        for put_back in self._restore:
            put_back()

    def visit(self, waiting: list[Any]) -> None:
        """Remember the contents of these values, and those of everything they hold."""
        seen, kept = self._seen, self._kept
        while waiting:
            value = waiting.pop()
            kind = type(value)
            if kind in _PLAIN_ITSELF:
                continue
            if kind in _CONTAINERS and not value:
                self._empty.append(value)
            elif id(value) not in seen:
                seen.add(id(value))
                kept.append(value)
                waiting += self._look(value)

    def _look(self, value: Any) -> Collection[Any]:
        if isinstance(value, dict):
            content = dict(value)
            self._dicts.append((value, content))
            return content.values()
        if isinstance(value, list | deque | set):
            return self._keep_collection(value)
        if isinstance(value, Tensor):  # (isinstance of nn.Parameter is slow, and asked often)
            if type(value) is not nn.Parameter and not getattr(value, "_is_param", False):
                self._keep_tensor(value)
        elif isinstance(value, (nn.Module, *_PLAIN)):
            return ()  # all modules are visited anyway
        elif isinstance(value, tuple):
            return value
        elif isinstance(value, torch.Generator):
            state = value.get_state()
            self._restore.append(lambda: _set_state(value, state))
        elif isinstance(value, numpy.ndarray):
            self._keep_array(value)
        elif isinstance(value, random.Random):
            internal = value.getstate()
            self._restore.append(lambda: value.setstate(internal))
        elif isinstance(value, numpy.random.Generator):
            bits, numbers = value.bit_generator, value.bit_generator.state
            self._restore.append(lambda: setattr(bits, "state", numbers))
        elif isinstance(getattr(value, "__dict__", None), dict) and not callable(value):
            return (value.__dict__,)
        return ()

    def _keep_collection(self, value: Any) -> Collection[Any]:
        content = list(value)

        def put_back() -> None:
            if len(value) != len(content) or not all(map(is_, value, content)):
                value.clear()
                value.update(content) if isinstance(value, set) else value.extend(content)

        self._restore.append(put_back)
        return content

    def _keep_tensor(self, value: Tensor) -> None:
        if value.is_meta or value.layout != torch.strided:
            return
        saved, joined = value.detach().clone(), value.requires_grad

        def put_back() -> None:
            if value.requires_grad and not joined:
                value.detach_()  # a pass with gradients wrote an activation into it
            if value.shape != saved.shape or not _same_bits(value, saved):
                with torch.no_grad():
                    value.set_(saved) if value.shape != saved.shape else value.copy_(saved)  # type: ignore[call-overload]

        self._restore.append(put_back)

    def _keep_array(self, value: numpy.ndarray[Any, Any]) -> None:
        saved = value.copy()

        def put_back() -> None:
            if value.flags.writeable:
                value[...] = saved

        self._restore.append(put_back)

    def keep_storage(self, parameter: nn.Parameter) -> None:
        """A forward that assigns `.data` replaces the storage; numbers are the recorder's care.

        One that calls `backward` leaves a gradient where there was none.
        """
        if parameter.is_meta:
            return
        storage, gradient = parameter.detach(), parameter.grad
        address, shape = storage.data_ptr(), storage.shape

        def put_back() -> None:
            if parameter.data_ptr() != address or parameter.shape != shape:
                with torch.no_grad():
                    parameter.set_(storage)  # type: ignore[call-overload]
            if parameter.grad is not gradient:
                parameter.grad = gradient

        self._restore.append(put_back)


def _same_entries(a: dict[Any, Any], b: dict[Any, Any]) -> bool:
    same = len(a) == len(b) and all(map(is_, a.values(), b.values()))
    return same and all(map(is_, a, b))


def _set_state(generator: torch.Generator, state: Tensor) -> None:
    generator.set_state(state)


def _same_bits(a: Tensor, b: Tensor) -> bool:
    if a.dtype == b.dtype and a.device == b.device and torch.equal(a, b):
        return True  # the rule; with NaN in it a tensor is not equal to itself
    return bool(((a == b) | ((a != a) & (b != b))).all())
