"""Networks that hold the same parameters: one tensor, one gradient, one optimizer state."""

from __future__ import annotations

import copy
from collections.abc import Collection

from torch import nn

from gnomon.errors import Unsupported

_COMPUTED = "parametrizations"  # where a module keeps what its parameters are computed from


def shared_copy(network: nn.Module, own: Collection[str] = ()) -> nn.Module:
    """A copy that holds the same `Parameter` objects; those named in `own`, and buffers, are new.

        parent   stages ─┐ W ┌─ head    statistics
        copy     stages ─┘   └─ head'   statistics'

    A copy puts parameters wherever modules refer to them (lists, flat weights of an LSTM).
    Raises Unsupported if modules copy themselves in a way of their own.
    """
    named = dict(network.named_parameters(remove_duplicate=False))
    apart = {id(named[name]) for name in own}
    shared = {id(p): p for p in named.values() if id(p) not in apart}
    memo: dict[int, object] = dict(shared)
    try:
        twin = copy.deepcopy(network, memo)
    except Exception as fault:  # whatever a foreign __deepcopy__ raises
        raise Unsupported(
            f"{type(network).__name__} cannot be copied ({fault}): drop what an earlier forward "
            f"left on it"
        ) from None
    held = {id(p) for p in twin.parameters()}
    if not shared.keys() <= held or held & apart:
        raise Unsupported(
            f"a copy of {type(network).__name__} does not hold the parameters it should: a module "
            f"copies itself in a way of its own (__deepcopy__)"
        )
    return twin


def owner(name: str) -> str:
    """The path of the module that a parameter belongs to, whether stored or computed."""
    path, computed, _ = f".{name}".partition(f".{_COMPUTED}.")
    return (path if computed else path.rpartition(".")[0]).removeprefix(".")


def names_under(network: nn.Module, path: str) -> frozenset[str]:
    """The names of a module's parameters; none for "". Raises Unsupported if it has none."""
    if not path:
        return frozenset()
    every = dict(network.named_parameters(remove_duplicate=False))
    found = frozenset(name for name in every if name.startswith(f"{path}."))
    if not found:
        paths = sorted({owner(name) for name in every})
        raise Unsupported(f"'{path}' holds no parameters, so it is no head; there are {paths}")
    return found


def names_beside(network: nn.Module, held: Collection[int]) -> frozenset[str]:
    """The names of all parameters in those modules that hold one of these, by identity."""
    every = list(network.named_parameters(remove_duplicate=False))
    places = {owner(name) for name, p in every if id(p) in held}
    return frozenset(name for name, _ in every if owner(name) in places)
