"""A zero R2R branch around any module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from gnomon.blocks import Paths, R2RBlock
from gnomon.editing import insertion
from gnomon.evolution.mutations.sites import Site, sites_of
from gnomon.evolution.population.member import Member
from gnomon.evolution.population.mutation import Mutation

if TYPE_CHECKING:
    from gnomon.evolution.spaces.any_model import AnyModel

_NORMS: tuple[type[nn.Module], ...] = (
    nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d
)  # fmt: skip


@dataclass(frozen=True)
class AddBranch(Mutation["AnyModel"]):
    """R2WiderR: a block that starts at zero, in parallel to a module.

        x ──┬── module ──┐
            └── block ───+ ── y       y = module(x) + z(x),  z = 0

    where: the module's path. Sizes are those of the block's first convolution, or linear layer
    where dims is 0. norm: whether it has a BatchNorm, as the model does.
    """

    where: str
    inputs: int
    outputs: int
    hidden: int
    kernel: int
    stride: int
    dims: int
    norm: bool

    @classmethod
    def choices(cls, space: AnyModel, parent: Member) -> list[tuple[AddBranch, float]]:
        """All modules with a layer in them whose input and output a block fits between."""
        normed = any(isinstance(m, _NORMS) for m in parent.network.modules())
        found = []
        for site in sites_of(parent, space.calls):
            stride = site.stride if site.has_layer else None
            for kernel, odds in space.kernels if site.dims else ((1, 1.0),):
                if stride is not None:
                    norm = normed and len(site.inputs) == site.dims + 2
                    found.append((cls._of(site, space, kernel, stride, norm), odds))
        return found

    @classmethod
    def _of(cls, site: Site, space: AnyModel, kernel: int, stride: int, norm: bool) -> AddBranch:
        inputs, outputs = site.channels(site.inputs), site.channels(site.outputs)
        hidden = max(2, 2 * round(space.hidden * outputs / 2))
        return cls(site.path, inputs, outputs, hidden, kernel, stride, site.dims, norm)

    def grow(self, space: AnyModel, network: nn.Module, seed: int) -> nn.Module:
        """Put the module and the block side by side."""
        module = network.get_submodule(self.where)
        block = R2RBlock(
            self.inputs, self.outputs, self.hidden, kernel_size=self.kernel, dims=self.dims,
            stride=self.stride, norm=_NORMS[self.dims] if self.norm else None,
        )  # fmt: skip
        block.to(next(module.parameters())).train(module.training)
        if isinstance(module, Paths) and module.join == "sum":
            module.paths.append(block)
        else:
            beside = Paths([module, block])
            beside.training = module.training
            insertion.replace(network, self.where, beside)
        return network
