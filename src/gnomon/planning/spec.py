"""Modules as data: class path and keyword arguments, read back from attributes of the same name.

    {"class": "torch.nn.modules.linear.Linear", "arguments": {"in_features": 3, "bias": true, ...}}

Files name classes, and building one runs its constructor. So a file may only name layers of
`torch.nn`, gnomon's own blocks, and classes that the caller has given or that the model already
uses; everything else is refused, with what to pass.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from gnomon.errors import BadCheckpoint
from gnomon.recording.tape import owned_tensors

Spec = dict[str, Any]
Factories = Mapping[str, Callable[..., nn.Module]]

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_PLAIN = (bool, int, float, str, type(None))
_NOT_KEPT = ("args", "kwargs", "device", "dtype")
_OWN = ("torch.nn.", "gnomon.activations", "gnomon.blocks")


def path_of(cls: type) -> str:
    """The import path of a class."""
    return f"{cls.__module__}.{cls.__qualname__}"


def describe(module: nn.Module) -> Spec:
    """The module as data; {"factory": its class path} if its arguments cannot be read back."""
    at_once = _described(module, unchecked)
    if _says_all(at_once, module):
        return at_once
    if any(True for _ in module.children()):  # some part of it may be what cannot be read back
        part_by_part = _described(module, describe)
        if _says_all(part_by_part, module):
            return part_by_part
    return {"factory": path_of(type(module))}


def unchecked(module: nn.Module) -> Spec:
    """As `describe`, not built to see whether that is all: whoever asked builds it anyway.

    What is built is to be `alike`.
    """
    return _described(module, unchecked) or {"factory": path_of(type(module))}


def _says_all(spec: Spec | None, module: nn.Module) -> TypeGuard[Spec]:
    """Whether the module comes out when it is built from what was said of it."""
    if spec is None:
        return False
    try:
        own = {path_of(type(m)): partial(_itself, m) for m in module.modules()}
        needed = {name: own[name] for name in factories_needed(spec)}
        with torch.device("meta"):
            again = build(spec, classes_of(module) | needed)
    except (TypeError, ValueError, RuntimeError, AttributeError, BadCheckpoint):
        return False
    return alike(module, again)


def _itself(module: nn.Module) -> nn.Module:
    return module


def factories_needed(spec: Spec) -> list[str]:
    """The names under which factories must be given to build this again."""
    if "factory" in spec:
        return [spec["factory"]]
    parts = [*spec.get("children", {}).values()]
    parts += [v["module"] for v in spec["arguments"].values() if _is(v, "module")]
    return [name for part in parts for name in factories_needed(part)]


def classes_of(model: nn.Module) -> dict[str, Callable[..., nn.Module]]:
    """The classes that a model uses, by path: those a file may name besides gnomon's own."""
    return {path_of(type(m)): type(m) for m in model.modules()}


def build(spec: Spec, factories: Factories) -> nn.Module:
    """Make the module that a spec describes, on the default device.

    Raises BadCheckpoint for a class that was not given and is not one of torch.nn or gnomon.
    """
    if "factory" in spec:
        name = str(spec["factory"])
        if name not in factories or isinstance(factories[name], type):
            raise BadCheckpoint(
                f"it holds a '{name}', whose arguments a file cannot express: pass "
                f"blocks={{'{name}': a function that makes one}}"
            )
        return factories[name]()
    made = _class(str(spec["class"]), factories)
    arguments = {str(k): _value(v, factories) for k, v in spec["arguments"].items()}
    children = {str(k): build(v, factories) for k, v in spec.get("children", {}).items()}
    module = made(**arguments)
    for name, child in children.items():
        module.add_module(name, child)
    if spec.get("dtype"):
        _convert(module, _dtype(spec["dtype"]))
    return module


def _convert(module: nn.Module, dtype: torch.dtype) -> None:
    """As `module.to(dtype)`, which takes long over a module that has this dtype already."""
    held = (t for m in module.modules() for t in (*m._parameters.values(), *m._buffers.values()))
    others = (t for t in held if t is not None and t.dtype != dtype)
    if any(t.is_floating_point() or t.is_complex() for t in others):
        module.to(dtype)


def _class(path: str, factories: Factories) -> Callable[..., nn.Module]:
    if path in factories:
        return factories[path]
    where, _, name = path.rpartition(".")
    found = None
    if f"{where}.".startswith(_OWN) and where.replace(".", "").replace("_", "").isalnum():
        try:
            found = getattr(importlib.import_module(where), name, None)
        except ImportError:
            found = None
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise BadCheckpoint(
            f"it names the class '{path}', which is neither torch's nor gnomon's nor one of the "
            f"model's: if you trust it, pass blocks={{'{path}': {name}}}"
        )
    return found


def _dtype(name: object) -> torch.dtype:
    found = getattr(torch, str(name), None)
    if not isinstance(found, torch.dtype):
        raise BadCheckpoint(f"it names the dtype {name!r}")
    return found


def _described(module: nn.Module, part: Callable[[nn.Module], Spec]) -> Spec | None:
    """What a constructor is to be given; `part` says it of the modules within."""
    spec: Spec = {"class": path_of(type(module)), "arguments": {}}
    dtypes = {str(p.dtype).partition(".")[2] for p in module.parameters() if p.is_floating_point()}
    if len(dtypes) == 1:
        spec["dtype"] = dtypes.pop()
    if isinstance(module, _CONTAINERS):
        children = {name: part(child) for name, child in module.named_children()}
        return spec | {"children": children} if type(module) in _CONTAINERS else None
    constructor: Callable[..., nn.Module] = type(module)
    for name, required in _asked(constructor):
        try:
            spec["arguments"][name] = _encoded(getattr(module, name), name, part)
        except (AttributeError, TypeError):
            if required:
                return None
    return spec


@functools.lru_cache(maxsize=512)
def _asked(constructor: Callable[..., nn.Module]) -> tuple[tuple[str, bool], ...]:
    """What a class asks for when one is made, by name, and whether it must be given."""
    return tuple(
        (name, parameter.default is parameter.empty)
        for name, parameter in inspect.signature(constructor).parameters.items()
        if name not in _NOT_KEPT
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    )


def _encoded(value: object, name: str, part: Callable[[nn.Module], Spec]) -> Any:
    """A value in JSON; raises TypeError for what cannot be."""
    if isinstance(value, Tensor):
        if name not in ("bias", "weight"):
            raise TypeError(name)
        return True  # the constructor asks whether there is one
    if isinstance(value, nn.Module):
        return {"module": part(value)}
    if isinstance(value, type) and issubclass(value, nn.Module):
        return {"type": path_of(value)}
    if isinstance(value, tuple):
        return {"tuple": [_encoded(v, "", part) for v in value]}
    if isinstance(value, list):
        return [_encoded(v, "", part) for v in value]
    if not isinstance(value, _PLAIN):
        raise TypeError(name)
    return value


def _is(value: object, kind: str) -> bool:
    return isinstance(value, dict) and set(value) == {kind}


def _value(data: Any, factories: Factories) -> Any:
    if _is(data, "module"):
        return build(data["module"], factories)
    if _is(data, "type"):
        return _class(str(data["type"]), factories)
    if _is(data, "tuple"):
        return tuple(_value(v, factories) for v in data["tuple"])
    if isinstance(data, list):
        return [_value(v, factories) for v in data]
    if not isinstance(data, _PLAIN):
        raise BadCheckpoint(f"it holds {data!r} as an argument")
    return data


def alike(one: nn.Module, other: nn.Module) -> bool:
    """Same classes, names, shapes and dtypes, and the same plain attributes."""
    if [name for name, _ in one.named_modules()] != [name for name, _ in other.named_modules()]:
        return False
    for m, n in zip(one.modules(), other.modules(), strict=True):
        if type(m) is not type(n) or _attributes(m) != _attributes(n):
            return False
    shapes = [
        [(name, t.shape, t.dtype) for name, t in owned_tensors(m).items()] for m in (one, other)
    ]
    return shapes[0] == shapes[1]


def _attributes(module: nn.Module) -> dict[str, object]:
    """What a constructor may have set from its arguments."""
    return {
        name: _comparable(value)
        for name, value in module.__dict__.items()
        if name != "training" and isinstance(value, (*_PLAIN, tuple, list))
    }


def _comparable(value: object) -> object:
    """Of a tensor its shape: recurrent layers list their weights, and those built anew are others.

    A reference to one would be compared by what it refers to.
    """
    if isinstance(value, tuple | list):
        return isinstance(value, list), [_comparable(v) for v in value]
    value = value() if isinstance(value, weakref.ref) else value
    return (value.shape, value.dtype) if isinstance(value, Tensor) else value
