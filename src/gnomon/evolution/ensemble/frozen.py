"""Members that are asked and never change: copies in eval mode that do not train."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from gnomon.editing import insertion
from gnomon.errors import GrowthError, Unsupported
from gnomon.evolution.joint.problem import Inputs, answered
from gnomon.share import separate


class Frozen(nn.Module):
    """Independent copies of networks, whole weights each, which stay in eval mode.

    networks: with equal outputs, (N, classes) each. inputs: examples to try them on.
    heads:    the path of each one's classifier: it is taken off, and what it read is given in its
              place. Of no account for the outputs.
    classes:  outputs of each network. widths: numbers per example that each one gives here.

    Raises Unsupported where they do not belong together, or have no such classifier.
    """

    def __init__(
        self, networks: Sequence[nn.Module], inputs: Inputs, heads: Sequence[str] | None = None
    ) -> None:
        super().__init__()
        if not networks:
            raise Unsupported("an ensemble cannot be made: it has no members. Give one or more")
        copies = [separate(network).requires_grad_(False).eval() for network in networks]
        self.classes = _common(copies, inputs)
        if heads is not None:
            if len(heads) != len(copies):
                raise Unsupported(f"{len(copies)} members have {len(copies)} heads, not {heads!r}")
            copies = [_headless(copy, head) for copy, head in zip(copies, heads, strict=True)]
        self.networks = nn.ModuleList(copies).eval()
        self.widths = [_width(i, copy, inputs) for i, copy in enumerate(copies)]

    def train(self, mode: bool = True) -> Self:
        """Members stay in eval mode."""
        return super().train(False)

    def forward(self, *args: Any, **kwargs: Any) -> list[Tensor]:
        """(N, width) of each member, for whatever they take."""
        return [network(*args, **kwargs).flatten(1) for network in self.networks]


@torch.no_grad()
def _common(networks: Sequence[nn.Module], inputs: Inputs) -> int:
    """How many outputs all networks have. Raises Unsupported if they differ."""
    shapes = [tuple(_tried(i, network, inputs).shape) for i, network in enumerate(networks)]
    if len(set(shapes)) > 1:
        raise Unsupported(
            f"an ensemble cannot be made: its members' outputs differ, {shapes}. Join networks of "
            f"one problem"
        )
    if len(shapes[0]) != 2:
        raise Unsupported(
            f"an ensemble cannot be made: its members give outputs of shape {shapes[0]}, not (N, "
            f"classes). Join networks that give one row per example"
        )
    return shapes[0][1]


@torch.no_grad()
def _width(number: int, network: nn.Module, inputs: Inputs) -> int:
    found = _tried(number, network, inputs)
    if found.dim() < 2:
        raise Unsupported(f"member {number} gives {tuple(found.shape)}: no row per example")
    return found[0].numel()


def _tried(number: int, network: nn.Module, inputs: Inputs) -> Tensor:
    try:
        found = answered(network, inputs)
    except Exception as fault:  # whatever a foreign forward raises
        raise Unsupported(
            f"member {number} of the ensemble, a {type(network).__name__}, does not run "
            f"({type(fault).__name__}: {fault}). Give it inputs of its own kind"
        ) from fault
    if not isinstance(found, Tensor):
        raise Unsupported(
            f"member {number} of the ensemble gives a {type(found).__name__}, not a tensor"
        )
    return found


def _headless(network: nn.Module, head: str) -> nn.Module:
    """The network with nothing in the place of its head."""
    if not head:
        raise Unsupported("an ensemble cannot read features: its members have no head. Give None")
    try:
        insertion.replace(network, head, nn.Identity())
    except GrowthError:
        paths = [path for path, m in network.named_modules() if path and m._parameters]
        raise Unsupported(
            f"'{head}' is no module of a {type(network).__name__}, so what it reads cannot be "
            f"taken. Its layers are {paths}"
        ) from None
    return network
