"""A member of the population: a network, where it comes from, and which parameters it uses."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from gnomon.analysis.flops import counted
from gnomon.recording.snapshot import unchanged
from gnomon.recording.tape import Call, tensors_in

if TYPE_CHECKING:
    from gnomon.evolution.population.lineage import Origin
    from gnomon.evolution.population.mutation import Mutation


@dataclass(frozen=True)
class Size:
    """What a network costs: parameters; forward FLOPs of one example (a multiply-add is 2)."""

    parameters: int
    flops: int


@dataclass(frozen=True, eq=False)
class Member:
    """A network of the search.

    id, parent, born: numbers; the base has no parent and was born in round 0. An immigrant has no
                parent here either, and was born in the round that it came for.
    mutation:   how it differs from its parent.
    factor:     of its learning rate and weight decay: the product of |parent| / |child| (numbers of
                parameters) along its lineage. Source: Painter, Deep Neuroevolution, C.3.
    parameters: by key, "<member it was born with>.<name there>"; other members that use one hold
                the very same object.
    keys:       the key of each of its names; own: names of what it shares with nobody.
    score:      share of the validation examples it gets right; nan before it was told.
    origin:     of an immigrant: where it comes from.
    """

    id: int
    parent: int | None
    born: int
    mutation: Mutation[Any] | None
    network: nn.Module = field(repr=False)
    size: Size
    factor: float
    parameters: Mapping[str, nn.Parameter] = field(repr=False)
    keys: Mapping[str, str] = field(repr=False)
    own: frozenset[str] = field(repr=False)
    score: float = math.nan
    origin: Origin | None = field(default=None, repr=False)

    def __str__(self) -> str:
        how = "the base" if self.parent is None else f"{self.mutation} of {self.parent}"
        if self.origin is not None:
            how = f"from island {self.origin.island}, {self.origin.id} there"
        return f"member {self.id}, {how}: {self.size.parameters:,} parameters, {self.score:.4f}"


def calls_on(network: nn.Module, calls: Sequence[Call]) -> list[Call]:
    """Example inputs where a network is."""
    device = next((p.device for p in network.parameters()), None)
    moved: list[Call] = pytree.tree_map_only(Tensor, lambda x: x.to(device), list(calls))
    return moved


def size_of(network: nn.Module, calls: Sequence[Call]) -> Size:
    """Count, on the first example inputs, in eval mode; the network is left as it was."""
    args, kwargs = first = calls_on(network, calls)[0]
    examples = tensors_in(first)[0]
    with unchanged(network), torch.no_grad(), counted() as counter:
        network.eval()(*args, **kwargs)
    count = max(1, examples.shape[0]) if examples.dim() else 1
    parameters = sum(p.numel() for p in network.parameters())
    return Size(parameters, int(counter.get_total_flops()) // count)


def keyed(
    network: nn.Module, number: int, known: Mapping[str, nn.Parameter] | None = None
) -> tuple[dict[str, nn.Parameter], dict[str, str]]:
    """Parameters by key, and the key of each name, tied names included.

    number: the member's. known: the parent's parameters by key.
    """
    held = {id(p): key for key, p in (known or {}).items()}
    parameters: dict[str, nn.Parameter] = {}
    keys: dict[str, str] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        key = held.setdefault(id(parameter), f"{number}.{name}")
        keys[name] = key
        parameters[key] = parameter
    return parameters, keys


def distinct(members: Collection[Member]) -> dict[str, nn.Parameter]:
    """All parameters of several members by key, each once."""
    return {key: p for member in members for key, p in member.parameters.items()}
