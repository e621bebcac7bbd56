"""What a command line asks to grow, as morphs: `PATTERN=1.5` and `PATTERN:+2`."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from gnomon.editing import insertion
from gnomon.errors import CannotPreserve, NoSuchGroup, Unsupported
from gnomon.grower import Grower
from gnomon.morphs import Deepen, Repeat, Widen
from gnomon.planning.plan import Plan
from gnomon.rules import R2R, Rule
from gnomon.rules.names import layers_beside

_LISTED = 12


def widened(text: str, rule: Rule) -> Widen:
    """`PATTERN=1.5` times as wide, `PATTERN=+8` channels more, `PATTERN=to:64` channels.

    Raises ValueError.
    """
    pattern, equals, amount = text.rpartition("=")
    if not equals or not pattern:
        raise ValueError(f"'{text}' is not PATTERN=1.5, PATTERN=+8 or PATTERN=to:64")
    try:
        if amount.startswith("+"):
            return Widen(pattern, add=int(amount), rule=rule)
        if amount.startswith("to:"):
            return Widen(pattern, to=int(amount.removeprefix("to:")), rule=rule)
        return Widen(pattern, by=float(amount), rule=rule)
    except ValueError as fault:
        raise ValueError(f"'{text}': {fault}") from None


def deepened(text: str, rule: str, model: nn.Module) -> list[Deepen | Repeat]:
    """`PATTERN:+2` behind each module that a path or glob names; of a container, its last.

    rule: its name. Where layers begin by R2R, a block of a stack is repeated; elsewhere new layers
    go behind the module.
    Raises ValueError, or NoSuchGroup for a pattern that matches nothing.
    """
    pattern, colon, amount = text.rpartition(":")
    try:
        count = int(amount)
        if not colon or not pattern or not amount.startswith("+"):
            raise ValueError
    except ValueError:
        raise ValueError(f"'{text}' is not PATTERN:+COUNT, as layers.3:+2") from None
    begins = layers_beside(rule)
    paths = [path for path, _ in model.named_modules() if path]
    chosen = [path for path in paths if path == pattern or fnmatchcase(path, pattern)]
    if not chosen:
        raise NoSuchGroup(f"no module matches '{pattern}'. There are {_listed(model, paths)}")
    chosen = [path for path in chosen if not any(path.startswith(f"{c}.") for c in chosen)]
    places = dict.fromkeys(_last(model, path) for path in chosen)
    return [
        Repeat(place, count)
        if isinstance(begins, R2R) and _in_a_stack(model, place)
        else Deepen(place, rule=begins, count=count)
        for place in reversed(places)
    ]


def planned(
    grower: Grower, morph: Widen | Deepen | Repeat, seed: int
) -> tuple[Widen | Deepen | Repeat, Plan, str]:
    """The plan of a morph, or of what takes its place, and why: '' if nothing does.

    A block that cannot be repeated, such as one with a norm behind its sum, has new layers behind
    it. Raises GrowthError.
    """
    try:
        return morph, grower.plan(morph, seed), ""
    except (CannotPreserve, Unsupported) as refusal:
        if not isinstance(morph, Repeat):
            raise
        layers = Deepen(morph.where, count=morph.count)
        return layers, grower.plan(layers, seed), f"{refusal}. New layers go behind it instead"


def _in_a_stack(model: nn.Module, path: str) -> bool:
    """Whether it stands beside others of its class, in a container, and has parts itself."""
    container, name = insertion.parent_of(model, path)
    if not isinstance(container, nn.Sequential | nn.ModuleList):
        return False
    block = container._modules[name]
    alike = [m for m in container.children() if type(m) is type(block)]
    return len(alike) > 1 and block is not None and any(True for _ in block.children())


def _last(model: nn.Module, path: str) -> str:
    """The last child of a container, down to what is none; else the module itself."""
    module = model.get_submodule(path)
    while type(module) in (nn.Sequential, nn.ModuleList) and len(module._modules):
        name, child = list(module._modules.items())[-1]
        assert child is not None
        path, module = f"{path}.{name}", child
    return path


def _listed(model: nn.Module, paths: Sequence[str]) -> str:
    names = [path for path in paths if path.count(".") <= 1]
    return ", ".join(names[:_LISTED]) + (", ..." if names[_LISTED:] else "")
