"""Every layer of every toy, factored one after another in ever another way."""

import copy
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

import gnomon as gn
from contracts import loss, run, without_dropout
from toys import TOYS

# Layers whose weight is computed or tied, that run twice, or not in every call.
NOT_ONCE = {
    "weight_normed_conv": {"0"},
    "weight_normed": {"0"},
    "called_twice": {"shared"},
    "two_paths": {"even", "odd"},
    "auxiliary_head": {"auxiliary.2"},
    "tied_stream": {"head"},
    "tied_decoder": {"head"},
    # only their weights are read
    "masked": {"layers.0", "layers.1", "layers.2"},
    # torch's layer reads their weights in eval mode and never calls them
    "encoder": {"1.self_attn.out_proj", "1.linear1", "1.linear2"},
}


def layers(model):
    """Paths of the linear and convolutional layers."""
    return [n for n, m in model.named_modules() if isinstance(m, nn.Linear | _ConvNd)]


def morphs(path, layer, dims):
    """The ways to factor a layer whose input has so many dimensions."""
    out = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    into = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
    own = getattr(layer, "kernel_size", ())
    g, ones = getattr(layer, "groups", 1), (1,) * len(own)
    norm = dims == 2 + len(own)
    wide = g * max(out, into)
    Factor = gn.Factor
    ways = [
        Factor(path, mid=wide + g),
        Factor(path, activation=nn.Tanh(), norm=norm),
        Factor(path, mid=2 * out * g, activation=nn.ReLU()),
        Factor(path, mid=wide, kernels=(ones, own), activation=nn.GELU()),
        Factor(path, mid=2 * wide, kernels=(ones, own), activation=nn.SiLU()),
        Factor(path, mid=2 * wide + 2 * g, activation=nn.Softplus()),
        Factor(path, mid=2 * out * g, activation=nn.GELU(), norm=norm),
    ]
    if isinstance(layer, _ConvTransposeNd):
        return ways
    threes = tuple(max(3, k) for k in own)
    ways += [Factor(path, mid=(wide + g, wide), activation=nn.Sigmoid(), norm=norm)]
    ways += [Factor(path, mid=(2 * wide,) * 2, kernels=(own, ones, own), activation=nn.ReLU())]
    if all(k % 2 for k in own) and padded(layer):
        same = {"kernels": (threes, threes), "border": "same"}
        ways += [Factor(path, mid=2 * out * g + 4 * g, activation=nn.Hardswish(), **same)]
        ways += [Factor(path, mid=out * g + 3 * g, **same)]
    return ways


def padded(layer):
    """Whether a 3x3 layer before it would find the padding that keeps its map's size."""
    if isinstance(layer, nn.Linear):
        return True
    reach = zip(layer.kernel_size, layer.dilation, layer.padding, strict=True)
    return all(p >= d * (k - 1) // 2 for k, d, p in reach)


@dataclass
class Factored:
    """A toy before and after; look, but copy before you touch."""

    old: nn.Module
    new: nn.Module
    inputs: object
    grower: gn.Grower
    receipts: list[gn.Receipt]


@cache
def factored(toy: str, dtype: torch.dtype = torch.float64, shift: int = 0) -> Factored:
    """All layers that run once, each in the next way of the list."""
    old, inputs = TOYS[toy].model(dtype), TOYS[toy].example(dtype)
    new = copy.deepcopy(old)
    grower, receipts = gn.Grower(new, inputs), []
    dims, number = dims_of_inputs(old, inputs), list(TOYS).index(toy) + shift
    for i, path in enumerate(p for p in layers(old) if p not in NOT_ONCE.get(toy, ())):
        ways = morphs(path, new.get_submodule(path), dims[path])
        receipts.append(grower.grow(ways[(number + i) % len(ways)], seed=i))
    return Factored(old, new, inputs, grower, receipts)


def dims_of_inputs(model, inputs):
    """How many dimensions each layer's input has, by path."""
    twin, found = copy.deepcopy(model), {}
    for path in layers(twin):
        module = twin.get_submodule(path)
        module.register_forward_pre_hook(
            lambda m, args, path=path: found.update({path: args[0].dim()})
        )
    run(twin, inputs)
    return found


def dead(model, inputs, names, steps):
    """Which of these parameters got no gradient in so many steps of descent."""
    model = without_dropout(model, training=False)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    seen = set()
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model, inputs).backward()
        pairs = model.named_parameters()
        seen |= {n for n, p in pairs if p.grad is not None and p.grad.abs().max() > 0}
        optimizer.step()
    return set(names) - seen
