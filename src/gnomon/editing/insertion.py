"""Put modules into a model and take them out again: in a container, behind a hook, in a place.

insert   in a Sequential or ModuleList, as the next child; numbered children behind it move up
hook     elsewhere: a child `deeper` of the module, run on its output by a forward hook, so that
         no name of the model changes
replace  a module in the place of another
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from gnomon.errors import Stale, Unsupported
from gnomon.planning.edit import ModuleEdit

CHILD = "deeper"
Undo = Callable[[], None]


class RunsDeeper:
    """A forward hook that sends a module's output through its child `deeper`.

    It holds no module itself, so copies and pickles of the model run their own blocks.
    """

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        """Return the output with its first tensor replaced by what the blocks make of it."""
        deeper = module._modules[CHILD]
        assert deeper is not None
        if isinstance(output, tuple) and output and isinstance(output[0], Tensor):
            first = deeper(output[0])
            rest = output[1:]
            named = hasattr(output, "_fields")
            return type(output)(first, *rest) if named else (first, *rest)
        return deeper(output)


def has_hook(module: nn.Module) -> bool:
    """Whether blocks were already put behind this module."""
    return any(isinstance(hook, RunsDeeper) for hook in module._forward_hooks.values())


def parent_of(model: nn.Module, path: str) -> tuple[nn.Module, str]:
    """The module that holds another, and the name under which."""
    where, _, name = path.rpartition(".")
    return model.get_submodule(where), name


def row_with(children: list[str], name: str) -> tuple[list[str], str]:
    """The names of a container's children with one more behind `name`, and its name.

    Numbered children move up; others keep their names and the new one is called after `name`.
    """
    place = children.index(name) + 1
    if children == [str(i) for i in range(len(children))]:
        return [str(i) for i in range(len(children) + 1)], str(place)
    base = re.sub(rf"_{CHILD}\d*$", "", name)
    tries = (f"{base}_{CHILD}{n or ''}" for n in (0, *range(2, len(children) + 3)))
    new = next(name for name in tries if name not in children)
    return [*children[:place], new, *children[place:]], new


def insert(model: nn.Module, after: str, module: nn.Module) -> tuple[str, Undo]:
    """Put a module behind another in their container. Returns its path and the undo."""
    container, name = parent_of(model, after)
    before = dict(container._modules)
    if name not in before:
        raise Stale(f"there is no module '{after}' to put another behind: plan again")
    row, own = row_with(list(before), name)
    waiting = iter(before.values())
    children = {key: module if key == own else next(waiting) for key in row}
    path = ".".join([*after.split(".")[:-1], own])
    _refill(container, children)
    return path, lambda: _refill(container, before)


def _refill(container: nn.Module, children: Mapping[str, nn.Module | None]) -> None:
    container._modules.clear()
    container._modules.update(children)


def hook(model: nn.Module, after: str, module: nn.Module) -> tuple[str, Undo]:
    """Run a module behind another that stands in no container. Returns its path and the undo."""
    owner = model.get_submodule(after)
    if has_hook(owner):
        raise AssertionError("a second block goes into the first one's container")
    if hasattr(owner, CHILD):
        raise Unsupported(
            f"'{after}' has a '{CHILD}' of its own, the name under which gnomon keeps new blocks"
        )
    owner.add_module(CHILD, nn.Sequential(module))
    handle = owner.register_forward_hook(RunsDeeper())

    def undo() -> None:
        handle.remove()
        del owner._modules[CHILD]

    return f"{after}.{CHILD}.0", undo


def replace(model: nn.Module, path: str, module: nn.Module) -> tuple[str, Undo]:
    """Put a module in the place of another. Returns its path and the undo."""
    try:
        holder, name = parent_of(model, path)
        before = holder._modules[name]
    except (AttributeError, KeyError):
        raise Stale(f"there is no module '{path}' to replace: plan again") from None
    holder._modules[name] = module

    def undo() -> None:
        holder._modules[name] = before

    return path, undo


def moved(name: str, edit: ModuleEdit) -> str | None:
    """What a tensor is called after a module was put in; None if it stood in one replaced."""
    where, _, behind = edit.place.rpartition(".")
    if edit.how == "replace":
        return None if name.startswith(f"{edit.place}.") else name
    prefix = f"{where}." if where else ""
    child, _, rest = name.removeprefix(prefix).partition(".")
    if edit.how != "insert" or not behind.isdigit() or not name.startswith(prefix):
        return name
    later = child.isdigit() and int(child) > int(behind)
    return f"{prefix}{int(child) + 1}.{rest}" if later else name


def names(model: nn.Module) -> dict[int, list[str]]:
    """The state_dict names of every tensor, by identity: what may move in an insertion."""
    found: dict[int, list[str]] = {}
    for kind in (model.named_parameters, model.named_buffers):
        for name, tensor in kind(remove_duplicate=False):
            found.setdefault(id(tensor), []).append(name)
    return found


def renamed(before: Mapping[int, list[str]], after: Mapping[int, list[str]]) -> dict[str, str]:
    """Old name -> new name of every tensor that is called differently now."""
    return {
        old: new
        for key, olds in before.items()
        for old, new in zip(olds, after.get(key, []), strict=False)
        if old != new
    }
