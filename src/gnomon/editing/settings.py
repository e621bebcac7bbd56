"""Settings: a plain object (a configuration) of which a module can be built again.

Found by building: the class of a module that holds the object makes of it alone, on `meta`, a
module of the same tensors. Nothing depends on what a class or a number is called.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gnomon.errors import Unsupported
from gnomon.recording.tape import owned_tensors

Undo = Callable[[], None]
PLAIN = (bool, int, float, str, type(None))
_OWN = frozenset(vars(nn.Module()))  # what every module holds: tables of hooks and the like


@dataclass(frozen=True)
class Settings:
    """What module `path` holds as `name`, of which it can be built again.

    stack: a container in it, whose blocks' attributes must be described too.
    odd:   what it is silent about, blocks of the stack taken as one: widths that have grown,
           modules that were put in.
    """

    path: str
    name: str
    stack: str
    odd: frozenset[str]

    def of(self, model: nn.Module) -> object:
        """The settings themselves."""
        return vars(model.get_submodule(self.path))[self.name]

    def describe(self, model: nn.Module) -> bool:
        """Whether they describe the model, as it is now, as well as they did."""
        module = model.get_submodule(self.path)
        odd = _odd(module, self.of(model), _inside(self.stack, self.path))
        return odd is not None and odd <= self.odd


def settings_of(model: nn.Module, stack: str) -> Settings | None:
    """The settings of a module around a stack, the outermost that has some."""
    for path, name, value in settings_around(model, stack):
        odd = _odd(model.get_submodule(path), value, _inside(stack, path))
        if odd is not None:
            return Settings(path, name, stack, odd)
    return None


def settings_around(model: nn.Module, place: str) -> Iterator[tuple[str, str, object]]:
    """What modules around a place hold that may be settings, the model's own first, and where."""
    parts = place.split(".")
    for path in (".".join(parts[:i]) for i in range(len(parts))):
        for name, value in vars(model.get_submodule(path)).items():
            if name not in _OWN and _is_settings(value):
                yield path, name, value


def fields(config: object) -> dict[str, object]:
    """Its attributes, and with a dot those of settings in it and the entries of lists."""
    found = dict(vars(config))
    for name, part in vars(config).items():
        inner = vars(part) if _is_settings(part) else _entries(part)
        found |= {f"{name}.{key}": value for key, value in inner.items()}
    return found


def say(config: object, field: str, value: object) -> None:
    """Set one of the `fields`.

    Raises KeyError or IndexError if it is not there, Unsupported if it does not take the value.
    """
    name, _, inner = field.partition(".")
    held = vars(config)[name]
    if not inner:
        try:
            setattr(config, name, value)
        except Exception as fault:  # whatever foreign code raises: settings may check themselves
            raise Unsupported(f"'{field}' does not take {value!r} ({fault})") from fault
    elif isinstance(held, list | tuple):
        row = list(held)
        row[int(inner)] = value
        setattr(config, name, type(held)(row))
    else:
        say(held, inner, value)


def changed(model: nn.Module, path: str, name: str, change: Callable[[object], None]) -> Undo:
    """Give all modules that hold these settings, or parts, changed ones. Returns the undo.

    A copy, since other models may have been built from the same object.
    """
    old = vars(model.get_submodule(path))[name]
    memo: dict[int, object] = {}
    new = copy.deepcopy(old, memo)
    change(new)
    parts = {id(part): memo[id(part)] for part in _parts(old) if id(part) in memo}
    held: list[tuple[nn.Module, str, object]] = []
    for module in model.modules():
        for key, value in vars(module).items():
            if id(value) in parts:
                held.append((module, key, value))
    for module, key, value in held:
        setattr(module, key, parts[id(value)])

    def undo() -> None:
        for module, key, value in held:
            setattr(module, key, value)

    return undo


def _parts(config: object) -> Iterator[object]:
    yield config
    yield from (v for v in vars(config).values() if _is_settings(v))


def _is_settings(value: object) -> bool:
    """A plain object with attributes: no module, tensor, function or class."""
    return (
        hasattr(value, "__dict__")
        and not callable(value)
        and not isinstance(value, nn.Module | Tensor | torch.Generator)
    )


def _entries(value: object) -> dict[str, object]:
    row = value if isinstance(value, list | tuple) else ()
    return {str(place): entry for place, entry in enumerate(row)}


def _inside(stack: str, path: str) -> str:
    return stack.removeprefix(f"{path}.") if path else stack


def _odd(module: nn.Module, config: object, stack: str) -> frozenset[str] | None:
    """The tensors, and the plain attributes in a stack, of which settings say something wrong.

    None if nothing can be built from them, or something that has no tensor in common.
    """
    again = built(module, config)
    if again is None:
        return None
    theirs, ours = shapes(again), shapes(module)
    if not theirs.keys() & ours.keys():
        return None
    odd = {n for n in theirs.keys() | ours.keys() if theirs.get(n) != ours.get(n)}
    told, held = _attributes(again, stack), _attributes(module, stack)
    odd |= {f"{stack}.{name}" for name in told.keys() ^ held.keys()}
    for name in told.keys() & held.keys():
        # what both have, since libraries mark modules that they have initialised
        for key in told[name].keys() & held[name].keys():
            if told[name][key] != held[name][key]:
                odd.add(f"{stack}.{name} {key}")
    return frozenset(re.sub(rf"^{re.escape(stack)}\.[^. ]+", f"{stack}.*", name) for name in odd)


def built(module: nn.Module, config: object) -> nn.Module | None:
    """A module of the same class of these settings alone, on `meta`; None if that fails."""
    made: Callable[..., object] = type(module)
    try:
        with _Hollow(), torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with torch.random.fork_rng(devices=[]):
                again = made(copy.deepcopy(config))
    except Exception:  # whatever foreign code raises: it is not made from this alone
        return None
    return again if isinstance(again, nn.Module) else None


class _Hollow(TorchFunctionMode):
    """Skips what fills tensors on `meta` in place: initialising takes most of the time there."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _FILLS or getattr(func, "__module__", "") == "torch.nn.init":
            filled = args[0] if args else kwargs.get("tensor")
            if isinstance(filled, Tensor) and filled.is_meta:
                return filled
        return func(*args, **kwargs)


_FILLS = frozenset((Tensor.normal_, Tensor.uniform_, Tensor.zero_, Tensor.fill_, Tensor.erfinv_))


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Of every parameter and buffer, by name."""
    return {name: tuple(t.shape) for name, t in owned_tensors(module).items()}


def _attributes(module: nn.Module, stack: str) -> dict[str, dict[str, object]]:
    return {
        name: {k: v for k, v in vars(m).items() if type(v) in PLAIN and k != "training"}
        for name, m in module.get_submodule(stack).named_modules()
    }
