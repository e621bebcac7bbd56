"""Put everything back that a forward pass may leave behind.

Forward passes cache tensors in attributes (some with fake tensors in them: the next real pass
would then crash), count calls, fill key-value caches, advance generators. Whatever hangs on the
model's modules is looked at: containers and plain objects, however deep, tensors, generators.
Everything keeps its identity and gets its old contents.
"""

from __future__ import annotations

import contextlib
import random
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.autograd.grad_mode import _unsafe_preserve_version_counter

_PLAIN = (int, float, complex, str, bytes, bool, type(None), type, torch.dtype, torch.device)
_Restore = Callable[[], None]


@contextlib.contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Restore attributes, buffers, parameters' storages and the global generators afterwards."""
    snapshot = _Snapshot()
    for module in model.modules():
        snapshot.visit(module.__dict__)
    for parameter in model.parameters():
        snapshot.keep_storage(parameter)
    python, numpy_state = random.getstate(), numpy.random.get_state()
    devices = {t.device.index or 0 for t in model.parameters() if t.device.type == "cuda"}
    # A loss that is still alive counts writes to what it saved; ours are taken back.
    counters = _unsafe_preserve_version_counter((*model.parameters(), *model.buffers()))
    with counters, torch.random.fork_rng(devices=sorted(devices)):
        try:
            yield
        finally:
            random.setstate(python)
            numpy.random.set_state(numpy_state)
            snapshot.restore()


class _Snapshot:
    """What hung on the modules, as a list of functions that put it back."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._kept: list[object] = []  # ids are keys, so nothing may be freed meanwhile
        self._restore: list[_Restore] = []

    def restore(self) -> None:
        for put_back in self._restore:
            put_back()

    def visit(self, value: Any) -> None:
        """Remember a value's contents, and those of everything it holds."""
        waiting = [value]
        while waiting:
            value = waiting.pop()
            if isinstance(value, _PLAIN) or id(value) in self._seen:
                continue
            self._seen.add(id(value))
            self._kept.append(value)
            waiting += self._look(value)

    def _look(self, value: Any) -> list[Any]:
        if isinstance(value, dict):
            return self._keep_dict(value)
        if isinstance(value, list | deque | set):
            return self._keep_collection(value)
        if isinstance(value, Tensor):  # (isinstance of nn.Parameter is slow, and asked often)
            if type(value) is not nn.Parameter and not getattr(value, "_is_param", False):
                self._keep_tensor(value)
        elif isinstance(value, nn.Module):
            return []  # all of them are visited anyway
        elif isinstance(value, tuple):
            return list(value)
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
            return [value.__dict__]
        return []

    def _keep_dict(self, value: dict[Any, Any]) -> list[Any]:
        content = dict(value)

        def put_back() -> None:
            same = len(value) == len(content) and all(
                k is j and v is w
                for (k, v), (j, w) in zip(value.items(), content.items(), strict=True)
            )
            if not same:
                value.clear()
                value.update(content)

        self._restore.append(put_back)
        return list(content.values())

    def _keep_collection(self, value: Any) -> list[Any]:
        content = list(value)

        def put_back() -> None:
            now = list(value)
            if len(now) != len(content) or any(
                a is not b for a, b in zip(now, content, strict=True)
            ):
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
        storage, gradient = parameter.detach(), parameter.grad

        def put_back() -> None:
            if parameter.data_ptr() != storage.data_ptr() or parameter.shape != storage.shape:
                with torch.no_grad():
                    parameter.set_(storage)  # type: ignore[call-overload]
            if parameter.grad is not gradient:
                parameter.grad = gradient

        if not parameter.is_meta:
            self._restore.append(put_back)


def _set_state(generator: torch.Generator, state: Tensor) -> None:
    generator.set_state(state)


def _same_bits(a: Tensor, b: Tensor) -> bool:
    return bool(((a == b) | ((a != a) & (b != b))).all())
