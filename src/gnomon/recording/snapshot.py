"""Put everything back that a forward pass may leave behind.

Forward passes cache tensors in attributes (some with fake tensors in them: the next real pass
would then crash), count calls, fill key-value caches, advance generators. Whatever hangs on the
model's modules is looked at: containers and plain objects, however deep, tensors, generators.
Everything keeps its identity and gets its old contents.
"""

from __future__ import annotations

import contextlib
import functools
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from operator import is_
from typing import Any, NamedTuple

import numpy
import torch
from torch import Tensor, nn
from torch.autograd.grad_mode import _unsafe_preserve_version_counter

from gnomon.recording.tensors import Copies, Storages, distinct

_PLAIN = (int, float, complex, str, bytes, bool, type(None), type, torch.dtype, torch.device)
# Most values are of one of these kinds: nothing to look into. (Parameters: see `Storages`.)
_PLAIN_ITSELF = frozenset((*_PLAIN, nn.Parameter))
_DICTS = frozenset((dict, OrderedDict))
_CONTAINERS = _DICTS | {list, set, deque}
_COLLECTIONS = (list, deque, set)
_HOLDING_NOTHING = (nn.Module, *_PLAIN)  # all modules are visited anyway
_Restore = Callable[[], None]


class Parts(NamedTuple):
    """What a model is made of, each once: a walk over a small model takes as long as a layer."""

    modules: list[nn.Module]
    parameters: list[nn.Parameter]
    buffers: list[Tensor]

    @classmethod
    def of(cls, model: nn.Module) -> Parts:
        modules = list(model.modules())
        parameters = distinct(chain.from_iterable(m._parameters.values() for m in modules))
        buffers = distinct(chain.from_iterable(m._buffers.values() for m in modules))
        return cls(modules, parameters, buffers)


class Kept:
    """What a model was, and where the global generators stood: to be put back as often as asked."""

    def __init__(self, model: nn.Module) -> None:
        self.parts = Parts.of(model)
        self._snapshot = _Snapshot(self.parts.modules)
        self._storages = Storages(self.parts.parameters)
        self._python, self._numpy = random.getstate(), numpy.random.get_state()

    def lay_gradients_aside(self) -> None:
        """Take the gradients off until all is put back, so that no pass adds to them."""
        self._storages.lay_gradients_aside()

    def put_back(self) -> None:
        """Give the model and the generators of Python and numpy back what they had."""
        random.setstate(self._python)
        numpy.random.set_state(self._numpy)
        self._snapshot.restore()
        self._storages.put_back()


@contextlib.contextmanager
def unchanged(model: nn.Module) -> Iterator[Kept]:
    """Restore attributes, buffers, parameters' storages and the global generators afterwards."""
    kept = Kept(model)
    _, parameters, buffers = kept.parts
    devices = {t.device.index or 0 for t in parameters if t.is_cuda}
    # A loss that is still alive counts writes to what it saved; ours are taken back.
    counters = _unsafe_preserve_version_counter((*parameters, *buffers))
    with counters, torch.random.fork_rng(devices=sorted(devices)):
        try:
            yield kept
        finally:
            kept.put_back()


def taking_back(modules: Sequence[nn.Module]) -> Callable[[], None]:
    """What gives these modules back their attributes and buffers of now, whenever it is called."""
    return _Snapshot(modules).restore


class _Snapshot:
    """What hung on the modules, and functions that put it back."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._seen = set(map(id, modules))
        self._kept: list[object] = [modules]  # ids are keys, so nothing may be freed meanwhile
        self._empty: list[Any] = []  # most containers of a module hold nothing
        self._dicts: list[dict[Any, Any]] = []
        self._contents: list[dict[Any, Any]] = []  # of these
        self._tensors: list[Tensor] = []
        self._restore: list[_Restore] = []
        waiting: Iterable[Any] = [module.__dict__ for module in modules]
        while waiting:
            waiting = self._visit(waiting)
        self._copies = Copies(self._tensors)

    def restore(self) -> None:
        if any(self._empty):
            for value in self._empty:
                value.clear()
        if not self._same_entries():
            for held, content in zip(self._dicts, self._contents, strict=True):
                if not _same_entries(held, content):
                    held.clear()
                    held.update(content)
        self._copies.put_back()
        for put_back in self._restore:
            put_back()

    def _same_entries(self) -> bool:
        """Whether all dicts hold what they held, found out faster than dict by dict."""
        now, then, flat = self._dicts, self._contents, chain.from_iterable
        return (
            list(map(len, now)) == list(map(len, then))
            and all(map(is_, flat(d.values() for d in now), flat(d.values() for d in then)))
            and all(map(is_, flat(now), flat(then)))
        )

    def _visit(self, values: Iterable[Any]) -> list[Any]:
        """Remember the contents of these values. Gives what they hold."""
        seen, kept, held = self._seen, self._kept, list[Any]()
        for value in values:
            kind = type(value)
            if kind in _PLAIN_ITSELF:
                continue
            if kind in _CONTAINERS and not value:
                self._empty.append(value)
            elif id(value) not in seen:
                seen.add(id(value))
                kept.append(value)
                held += value if kind is tuple else self._look(value)
        return held

    def _look(self, value: Any) -> Collection[Any]:
        if type(value) is Tensor:  # not of a kind that may be a parameter too
            self._tensors.append(value)
            return ()
        if isinstance(value, dict):
            content = dict(value)
            self._dicts.append(value)
            self._contents.append(content)
            return content.values()
        if isinstance(value, _COLLECTIONS):
            return self._keep_collection(value)
        if isinstance(value, Tensor):  # (isinstance of nn.Parameter is slow, and asked often)
            if type(value) is not nn.Parameter and not getattr(value, "_is_param", False):
                self._tensors.append(value)
        elif isinstance(value, _HOLDING_NOTHING):
            return ()
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
        elif not callable(value):
            return self._keep_attributes(value)
        return ()

    def _keep_attributes(self, value: object) -> Collection[Any]:
        """Of an object of any other class: what it holds in its dict, and in slots."""
        held: list[Any] = []
        if isinstance(getattr(value, "__dict__", None), dict):
            held.append(value.__dict__)
        kind: Any = type(value)
        slots = _slots_of(kind)
        if slots:
            content = {name: getattr(value, name) for name in slots if hasattr(value, name)}
            self._restore.append(lambda: _fill(value, slots, content))
            held += content.values()
        return held

    def _keep_collection(self, value: Any) -> Collection[Any]:
        content = list(value)

        def put_back() -> None:
            if len(value) != len(content) or not all(map(is_, value, content)):
                value.clear()
                value.update(content) if isinstance(value, set) else value.extend(content)

        self._restore.append(put_back)
        return content

    def _keep_array(self, value: numpy.ndarray[Any, Any]) -> None:
        saved = value.copy()

        def put_back() -> None:
            if value.flags.writeable:
                value[...] = saved

        self._restore.append(put_back)


def _same_entries(a: dict[Any, Any], b: dict[Any, Any]) -> bool:
    same = len(a) == len(b) and all(map(is_, a.values(), b.values()))
    return same and all(map(is_, a, b))


@functools.cache
def _slots_of(kind: type) -> tuple[str, ...]:
    """The names of the slots that a class and its bases declare."""
    found: list[str] = []
    for base in kind.__mro__:
        names = base.__dict__.get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            hidden = name.startswith("__") and not name.endswith("__")
            found.append(f"_{base.__name__.lstrip('_')}{name}" if hidden else name)
    return tuple(name for name in found if name not in ("__dict__", "__weakref__"))


def _fill(value: object, slots: Sequence[str], content: Mapping[str, object]) -> None:
    """Give slots what they held; one that held nothing is emptied."""
    for name in slots:
        if name not in content:
            if hasattr(value, name):
                object.__delattr__(value, name)
        elif getattr(value, name, _NOTHING) is not content[name]:
            object.__setattr__(value, name, content[name])


_NOTHING = object()


def _set_state(generator: torch.Generator, state: Tensor) -> None:
    generator.set_state(state)
