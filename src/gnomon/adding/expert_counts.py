"""What a model's attributes and settings say of how many experts there are and how many are picked.

Found by value, and tried: nothing depends on what a number is called. Settings come first. Of those
with which a model can be built that has the grown shapes, the one that differs from the grown model
in nothing but numbers of its mixtures is right, and it says what those become. Without settings all
numbers of that value in the mixture itself are taken, or as many of them as make it run.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping, Sequence

from torch import nn

from gnomon.adding.mixtures import Mixture
from gnomon.editing.settings import built, fields, say, settings_around, shapes
from gnomon.errors import Unsupported
from gnomon.planning.edit import AttributeEdit

Shapes = Mapping[str, tuple[int, ...]]
Edits = tuple[AttributeEdit, ...]

_MOST = 64  # ways to choose among attributes that are tried


def from_settings(
    model: nn.Module, mixtures: Sequence[Mixture], wanted: Shapes, by: int
) -> Iterator[Edits]:
    """Edits of settings and of the attributes that go with them; the most likely first.

    wanted: the shapes of all tensors once grown.
    """
    for path, name, config in settings_around(model, mixtures[0].path):
        module, prefix = model.get_submodule(path), f"{path}." if path else ""
        again = built(module, config)
        if again is None or shapes(again) != shapes(module):
            continue
        inside = {n.removeprefix(prefix): s for n, s in wanted.items() if n.startswith(prefix)}
        within = tuple(m.path.removeprefix(prefix) for m in mixtures)
        experts, picked = mixtures[0].experts, mixtures[0].picked
        for counts in _numbers(config, experts):
            changed = _with(config, counts, by)
            again = None if changed is None else built(module, changed)
            if again is None or shapes(again) != inside:
                continue
            for tops in _numbers(config, picked):
                if set(counts) & set(tops):
                    continue
                both = _with(config, (*counts, *tops), by)
                again = None if both is None else built(module, both)
                if again is None or shapes(again) != inside:
                    continue
                found = _differing(module, again, within)
                if found is None:
                    continue
                said = [(f, experts) for f in counts] + [(f, picked) for f in tops]
                yield (
                    *(AttributeEdit(path, f"{name}.{f}", n, n * by) for f, n in said),
                    *(AttributeEdit(prefix + p, n, old, new) for p, n, old, new in found),
                )


def from_attributes(model: nn.Module, mixture: Mixture, by: int) -> Iterator[Edits]:
    """Edits of the mixture's own numbers: all that could be meant, then fewer and fewer."""
    sizes = (mixture.experts, mixture.picked)
    every = [
        AttributeEdit(f"{mixture.path}.{p}" if p else mixture.path, name, value, value * by)
        for p, module in model.get_submodule(mixture.path).named_modules()
        if not type(module).__module__.startswith("torch.nn.")
        for name, value in vars(module).items()
        if type(value) is int and value in sizes
    ]
    fewer = (
        tuple(e for e in every if e not in left)
        for n in range(len(every) + 1)
        for left in itertools.combinations(every, n)
    )
    yield from itertools.islice(fewer, _MOST)


def _numbers(config: object, value: int) -> Iterator[tuple[str, ...]]:
    """Fields of this value, one by one, then all of them."""
    found = [f for f, held in fields(config).items() if type(held) is int and held == value]
    yield from ((f,) for f in found)
    if len(found) > 1:
        yield tuple(found)


def _with(config: object, names: Sequence[str], by: int) -> object | None:
    changed = copy.deepcopy(config)
    held = fields(config)
    try:
        for name in names:
            number = held[name]
            assert isinstance(number, int)
            say(changed, name, number * by)
    except Unsupported:
        return None
    return changed


def _differing(
    module: nn.Module, again: nn.Module, within: Sequence[str]
) -> list[tuple[str, str, int, int]] | None:
    """Where whole numbers differ, all of it in mixtures; None if something else does too."""
    modules, found = dict(module.named_modules()), []
    for path, other in again.named_modules():
        if path not in modules or type(other).__module__.startswith("torch.nn."):
            continue
        held = vars(modules[path])
        for name, value in vars(other).items():
            old = held.get(name)
            if type(value) is not int or type(old) is not int or old == value:
                continue
            if not any(path == p or path.startswith(f"{p}.") for p in within):
                return None
            found.append((path, name, old, value))
    return found
