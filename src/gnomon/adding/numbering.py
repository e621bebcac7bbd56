"""What a model says about the blocks of a stack: which one each is, and how many there are.

Found by value alone: an integer that equals the block's position in every block, and numbers in
settings that a module was built from, by building it again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from gnomon.editing import insertion
from gnomon.editing.insertion import Undo
from gnomon.editing.settings import PLAIN, Settings, changed, fields, say
from gnomon.errors import Stale, Unsupported
from gnomon.planning.edit import ModuleEdit

Index = tuple[str, str, int]  # path inside a block, attribute, what it is more than the position


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
    except BaseException:
        _all(undo)
        raise
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
    """One more in a number, and one more entry, that of the block before, in lists."""

    def longer(config: object) -> None:
        number = str(counted["number"])
        say(config, number, int(str(fields(config)[number])) + 1)
        for name in map(str, counted["lists"]):
            row: Any = fields(config)[name]
            say(config, name, [*row[:place], row[place - 1], *row[place:]])

    return changed(model, str(counted["path"]), str(counted["name"]), longer)


def counts(model: nn.Module, settings: Settings) -> Iterator[dict[str, Any]]:
    """Numbers in settings, or in lists there, that may say how many blocks their stack holds."""
    n = len(model.get_submodule(settings.stack)._modules)
    found = fields(settings.of(model))
    rows = [name for name, value in found.items() if _is_row(value, n)]
    for lists in ([], rows) if rows else ([],):
        for name, value in found.items():
            if type(value) is int and value == n:
                yield {"path": settings.path, "name": settings.name, "number": name, "lists": lists}


def _is_row(value: object, n: int) -> bool:
    return isinstance(value, list) and len(value) == n and all(type(v) in PLAIN for v in value)
