"""A member as a network of its own, to keep when the search is over."""

from __future__ import annotations

from torch import nn

from gnomon.blocks import R2RBlock
from gnomon.editing import insertion
from gnomon.evolution.population.member import Member
from gnomon.share import separate


def export(member: Member, *, native: bool = False) -> nn.Module:
    """An independent copy of a member's network, which shares nothing and is made of whole weights.

    native: fold every R2R block into ordinary layers too; small kernels are then padded.
    Raises Unsupported for blocks that cannot fold (see `R2RBlock.fold`).
    """
    network = separate(member.network)
    for path, module in list(network.named_modules()):
        if native and path and isinstance(module, R2RBlock):
            insertion.replace(network, path, module.fold("native"))
    return network
