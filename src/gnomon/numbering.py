"""What a model says about the blocks of a stack: which one each is, and how many there are.

Found by value alone: an integer that equals the block's position in every block, and numbers in a
plain object (a configuration) that a module was built from, by building it again.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gnomon import insertion
from gnomon.edit import ModuleEdit
from gnomon.errors import Stale, Unsupported
from gnomon.insertion import Undo
from gnomon.tape import owned_tensors

Index = tuple[str, str, int]  # path inside a block, attribute, what it is more than the position
Attributes = dict[str, dict[str, object]]
_PLAIN = (bool, int, float, str, type(None))


def positions(container: nn.Module, path: str) -> list[Index]:
    """The integers in its blocks that say at which position a block stands.

    Raises Unsupported for a single block with integers of 0 or 1, since it cannot be told.
    """
    blocks = list(container.children())
    found: list[Index] = []
    for inner, module in blocks[0].named_modules():
        for name, value in vars(module).items():
            if type(value) is int and _counts_up(blocks, inner, name, value):
                found.append((inner, name, value))
    if len(blocks) == 1 and found:
        inner, name, value = found[0]
        raise Unsupported(
            f"'{path}' stands alone, so it cannot be told whether its attribute "
            f"'{f'{inner}.' if inner else ''}{name}' = {value} is its position or something else: "
            f"build the model with two blocks or more"
        )
    return found


def _counts_up(blocks: list[nn.Module], inner: str, name: str, first: int) -> bool:
    modules = [dict(block.named_modules()).get(inner) for block in blocks]
    if any(type(m).__module__.startswith("torch.nn.") for m in modules) or first not in (0, 1):
        return False
    values = [None if m is None else vars(m).get(name) for m in modules]
    return all(type(v) is int and v == first + i for i, v in enumerate(values))


def renumber(model: nn.Module, edit: ModuleEdit) -> Undo:
    """Bring positions and counts in line with a block that was just put in. Returns the undo.

    Raises Stale where an attribute is missing.
    """
    container, _ = insertion.parent_of(model, edit.place)
    undo: list[Undo] = []
    try:
        for inner, name, offset in edit.options["indices"]:
            for place, block in enumerate(container.children()):
                undo.append(_set_number(block.get_submodule(inner), name, place + int(offset)))
        if edit.options.get("counted"):
            undo.append(_count(model, edit.options["counted"], _place(container, model, edit)))
    except (AttributeError, KeyError, IndexError) as fault:
        _all(undo)
        raise Stale(f"the blocks beside '{edit.place}' are other ones now: {fault}") from None
    return lambda: _all(undo)


def _all(undo: list[Undo]) -> None:
    for put_back in reversed(undo):
        put_back()


def _place(container: nn.Module, model: nn.Module, edit: ModuleEdit) -> int:
    before = model.get_submodule(edit.place)
    return [id(m) for m in container.children()].index(id(before)) + 1


def _set_number(module: nn.Module, name: str, value: int) -> Undo:
    before = vars(module)[name]
    setattr(module, name, value)
    return lambda: setattr(module, name, before)


def _count(model: nn.Module, counted: Mapping[str, Any], place: int) -> Undo:
    """Give the modules that hold a configuration one of their own that says one more.

    A copy, since other models may have been built from the same object.
    """
    old = vars(model.get_submodule(str(counted["path"])))[str(counted["name"])]
    memo: dict[int, Any] = {}
    new = copy.deepcopy(old, memo)
    _say(new, counted, place)
    parts = {id(part): memo[id(part)] for part in _parts(old) if id(part) in memo}
    changed: list[tuple[nn.Module, str, object]] = []
    for module in model.modules():
        for name, value in vars(module).items():
            if id(value) in parts:
                changed.append((module, name, value))
    for module, name, value in changed:
        setattr(module, name, parts[id(value)])

    def undo() -> None:
        for module, name, value in changed:
            setattr(module, name, value)

    return undo


def _say(config: Any, counted: Mapping[str, Any], place: int) -> None:
    """One more in a number, and one more entry, that of the block before, in lists."""
    where, _, name = str(counted["number"]).rpartition(".")
    holder = _inner(config, where)
    setattr(holder, name, vars(holder)[name] + 1)
    for path in counted["lists"]:
        where, _, name = str(path).rpartition(".")
        holder = _inner(config, where)
        entries = list(vars(holder)[name])
        entries.insert(place, entries[place - 1])
        setattr(holder, name, entries)


def _inner(config: Any, path: str) -> Any:
    for name in filter(None, path.split(".")):
        config = vars(config)[name]
    return config


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


def counts(model: nn.Module, where: str) -> list[dict[str, Any]]:
    """Numbers that may say how many blocks a container holds, in settings that describe it.

    Settings describe a module if its class makes one of the same tensors of them alone.
    """
    n = len(model.get_submodule(where)._modules)
    for path in _above(where):
        module = model.get_submodule(path)
        for name, value in vars(module).items():
            if _is_settings(value) and _describes(module, value, ""):
                return list(_candidates(value, path, name, n))
    return []


def _above(path: str) -> list[str]:
    """The modules around a container, the model first."""
    parts = path.split(".")
    return [".".join(parts[:i]) for i in range(len(parts))]


def _candidates(config: object, path: str, name: str, n: int) -> Iterator[dict[str, Any]]:
    fields = {("", k): v for k, v in vars(config).items()}
    for inner, part in vars(config).items():
        if _is_settings(part):
            fields |= {(f"{inner}.", k): v for k, v in vars(part).items()}
    rows = [f"{a}{b}" for (a, b), v in fields.items() if _is_row(v, n)]
    for lists in ([], rows) if rows else ([],):
        for (a, b), value in fields.items():
            if type(value) is int and value == n:
                yield {"path": path, "name": name, "number": f"{a}{b}", "lists": lists}


def _is_row(value: object, n: int) -> bool:
    return isinstance(value, list) and len(value) == n and all(type(v) in _PLAIN for v in value)


def still_describes(model: nn.Module, counted: Mapping[str, Any], where: str) -> bool:
    """Whether the settings, as they are now, make the same tensors and the same blocks."""
    module = model.get_submodule(str(counted["path"]))
    inside = where.removeprefix(f"{counted['path']}.") if counted["path"] else where
    return _describes(module, vars(module)[str(counted["name"])], inside)


def _describes(module: nn.Module, config: object, where: str) -> bool:
    """where: a container whose blocks must have the same plain attributes too."""
    made: Callable[..., object] = type(module)
    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            again = made(copy.deepcopy(config))
    except Exception:  # whatever foreign code raises: it is not made from this alone
        return False
    if not isinstance(again, nn.Module) or _shapes(again) != _shapes(module):
        return False
    return not where or _agree(_attributes(again, where), _attributes(module, where))


def _agree(one: Attributes, other: Attributes) -> bool:
    """Whether what both have is equal: libraries mark modules that they have initialised."""
    return one.keys() == other.keys() and all(
        one[name][key] == other[name][key]
        for name in one
        for key in one[name].keys() & other[name].keys()
    )


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(t.shape) for name, t in owned_tensors(module).items()}


def _attributes(module: nn.Module, where: str) -> Attributes:
    return {
        name: {k: v for k, v in vars(m).items() if type(v) in _PLAIN and k != "training"}
        for name, m in module.get_submodule(where).named_modules()
    }
