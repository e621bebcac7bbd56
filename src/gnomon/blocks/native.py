"""Fold an R2R block into ordinary layers: which piece of which tensor goes where."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from gnomon.blocks.branch import CONVOLUTIONS, Branch, convolution
from gnomon.errors import Unsupported
from gnomon.planning.fill import empty_in_format_of

if TYPE_CHECKING:
    from gnomon.blocks.r2r import R2RBlock

COUNT = "norm1.num_batches_tracked"  # the one tensor that has no piece per channel


@dataclass(frozen=True)
class Piece:
    """Where one of the block's tensors lies in a folded one: `folded[place]` is `name`.

    Pieces of one tensor never overlap. What none of them covers is zero: the rim of a small kernel
    beside a large one, and what a second convolution's kernels do not reach.
    """

    name: str
    place: tuple[slice, ...]


def native(block: R2RBlock) -> tuple[nn.Sequential, Mapping[str, tuple[Piece, ...]]]:
    """Ordinary layers that compute what the block does, and the pieces of each of their tensors.

    Parameters and buffers are copies, in the block's dtype, device, memory format and mode.
    Raises Unsupported if one set of layers cannot express all of the blocks.
    """
    branches = plain_branches(block)
    _check_alike(branches)
    layers = _layers(block, branches[0])
    held = dict(block.named_parameters()) | dict(block.named_buffers())
    pieces = {}
    for name in _names(branches[0]):
        ends = [f"branches.{i}.{name}" for i in range(len(branches))]
        olds = {end: held[end] for end in ends if end in held}
        shape, pieces[name] = _laid_out(olds, dim=1 if name == "conv2.weight" else 0)
        _set(layers, name, joined(olds, pieces[name], shape))
    if f"branches.0.{COUNT}" in held:
        counts = [held[f"branches.{i}.{COUNT}"] for i in range(len(branches))]
        _set(layers, COUNT, torch.stack(counts).amax(0))
    return layers, pieces


def joined(olds: Mapping[str, Tensor], pieces: Sequence[Piece], shape: torch.Size) -> Tensor:
    """A tensor of this shape with each piece in its place, and zeros elsewhere.

    It has the first piece's dtype, device and memory format, and is a Parameter if that is one.
    """
    first = olds[pieces[0].name]
    new = empty_in_format_of(first.detach(), shape).zero_()
    for piece in pieces:
        new[piece.place] = olds[piece.name].detach()
    return nn.Parameter(new, first.requires_grad) if isinstance(first, nn.Parameter) else new


def plain_branches(block: R2RBlock) -> list[Branch]:
    """The block's branches; raises Unsupported if one was changed, or does more than compute."""
    branches = [branch for branch in block.branches if isinstance(branch, Branch)]
    if len(branches) != len(block.branches):
        raise Unsupported("an R2RBlock can change its form only if it made all of its branches")
    _refuse_hooks(block)
    for branch in branches:
        _check_convolution(branch.conv1, block.dims, block.stride)
        _check_convolution(branch.conv2, block.dims, 1)
    return branches


def _refuse_hooks(block: nn.Module) -> None:
    for module in block.modules():
        hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
        if any((*hooks, module._backward_pre_hooks)):
            raise Unsupported(
                f"an R2RBlock with hooks on its {type(module).__name__} cannot change its form: "
                f"they would no longer be called. Remove them first"
            )


def _names(branch: Branch) -> list[str]:
    """The tensors that a folded layer has in common with a branch, the count of batches aside."""
    tensors = [*branch.named_parameters(), *branch.named_buffers()]
    return [name for name, _ in tensors if name != COUNT]


def _laid_out(olds: Mapping[str, Tensor], dim: int) -> tuple[torch.Size, tuple[Piece, ...]]:
    """Tensors side by side along one dimension, and centred in the largest along the others."""
    tensors = list(olds.values())
    shape = [max(t.shape[d] for t in tensors) for d in range(tensors[0].dim())]
    starts = [0] * len(tensors)
    if shape:
        ends = torch.tensor([t.shape[dim] for t in tensors]).cumsum(0).tolist()
        starts, shape[dim] = [0, *ends[:-1]], ends[-1]
    pieces = []
    for start, (name, old) in zip(starts, olds.items(), strict=True):
        first = [(shape[d] - old.shape[d]) // 2 if d != dim else start for d in range(old.dim())]
        place = tuple(slice(a, a + n) for a, n in zip(first, old.shape, strict=True))
        pieces.append(Piece(name, place))
    return torch.Size(shape), tuple(pieces)


def _layers(block: R2RBlock, first: Branch) -> nn.Sequential:
    """The layers in the right sizes; their weights are set afterwards."""
    hidden, kernels = sum(block.hidden), (max(block.kernel_size), max(block.out_kernel_size))
    with torch.device("meta"):  # no memory, and no random numbers
        conv1 = convolution(
            block.dims, block.inputs, hidden, kernels[0],
            stride=block.stride, bias=first.conv1.bias is not None,
        )  # fmt: skip
        conv2 = convolution(block.dims, hidden, block.outputs, kernels[1], bias=True)
    norm = copy.deepcopy(first.norm1)
    norm.__dict__.update({"num_features": hidden} if "num_features" in norm.__dict__ else {})
    layers = OrderedDict(conv1=conv1, norm1=norm, activation=copy.deepcopy(first.activation))
    if isinstance(norm, nn.Identity):
        del layers["norm1"]
    layers["conv2"] = conv2
    sequence = nn.Sequential(layers)
    for name, layer in sequence.named_children():
        layer.train(first.get_submodule(name).training)
    sequence.training = block.training
    return sequence


def _set(layers: nn.Sequential, name: str, value: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    setattr(layers.get_submodule(path), leaf, value)


def _check_alike(branches: Sequence[Branch]) -> None:
    """Raise Unsupported with what differs; what the constructor makes is always alike."""
    _check_tensors(branches)
    first, *others = branches
    for other, part in ((other, part) for other in others for part in ("norm1", "activation")):
        a, b = _description(first.get_submodule(part)), _description(other.get_submodule(part))
        if a != b:
            raise Unsupported(f"blocks with different layers '{part}' cannot fold: {a} and {b}")
    if others and first.activation.state_dict():
        raise Unsupported(
            f"{len(branches)} blocks, each with a trained {type(first.activation).__name__} of its "
            f"own, cannot fold into one layer with one activation: keep form 'concatenated'"
        )
    counts = {int(getattr(branch.norm1, "num_batches_tracked", None) or 0) for branch in branches}
    if len(counts) > 1 and getattr(first.norm1, "momentum", None) is None:
        raise Unsupported(
            f"blocks whose norms averaged over {sorted(counts)} batches cannot fold: with "
            f"momentum=None they would go on differently. Keep form 'concatenated'"
        )


def _check_convolution(layer: nn.Module, dims: int, stride: int) -> None:
    plain = type(layer) is CONVOLUTIONS[dims]
    if plain and isinstance(layer, _ConvNd):
        kept = tuple(size // 2 for size in layer.kernel_size)
        plain = layer.padding == kept and layer.stride == (stride,) * dims
        plain &= layer.dilation == (1,) * dims and layer.groups == 1
        plain &= layer.padding_mode == "zeros"
    if not plain:
        raise Unsupported(
            f"an R2RBlock whose {layer} is no longer the layer that it made (stride {stride}, zero "
            f"padding) cannot change its form: keep form 'parallel'"
        )


def _check_tensors(branches: Sequence[Branch]) -> None:
    """The same names in every branch, but for the one second bias; each tensor alike, and plain."""
    named = [dict(branch.named_parameters()) | dict(branch.named_buffers()) for branch in branches]
    if len({id(t) for each in named for t in each.values()}) != sum(map(len, named)):
        raise Unsupported("blocks that share a parameter cannot fold: it would be untied")
    for i, each in enumerate(named):
        expected = (named[0].keys() - {"conv2.bias"}) | (set() if i else {"conv2.bias"})
        if each.keys() != expected:
            raise Unsupported(
                f"blocks of which some lack or add {sorted(each.keys() ^ expected)} cannot fold: "
                f"keep form 'parallel'"
            )
        for name, tensor in each.items():
            _check_tensor(name, tensor, named[0][name])


def _check_tensor(name: str, tensor: Tensor, like: Tensor) -> None:
    if any(getattr(tensor, a) != getattr(like, a) for a in ("dtype", "device", "requires_grad")):
        raise Unsupported(
            f"blocks whose '{name}' differ in dtype, device or requires_grad cannot fold: make "
            f"them alike first, or keep form 'parallel'"
        )
    if tensor._backward_hooks or getattr(tensor, "_post_accumulate_grad_hooks", None):
        raise Unsupported(f"a block with hooks on its '{name}' cannot fold: remove them first")


def _description(layer: nn.Module) -> list[tuple[str, dict[str, str]]]:
    """The classes in a layer and what they keep about themselves, apart from their width."""
    return [
        (
            type(module).__name__,
            {k: repr(v) for k, v in vars(module).items() if k[0] != "_" and k != "num_features"},
        )
        for module in layer.modules()
    ]
