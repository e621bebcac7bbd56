"""Families of equal things on random small networks."""

import copy

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import gnomon as gn
from contracts import growable

few = settings(max_examples=12, deadline=None, derandomize=True)
ACTIVATIONS = [nn.ReLU, nn.GELU, nn.Tanh, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Identity]
RULES = st.sampled_from(
    [gn.R2R(), gn.Net2Net(), gn.Net2Net(uneven=False), gn.NetMorph(), gn.Hybrid()]
)


class Branches(nn.Module):
    """Two branches, added or joined, around one of many bodies."""

    def __init__(self, left, right, joined):
        super().__init__()
        self.left, self.right, self.joined = left, right, joined

    def forward(self, x):
        a, b = self.left(x), self.right(x)
        return torch.cat([a, b], 1) if self.joined else a + b


@st.composite
def networks(draw):
    """Convolutions with norms, activations, residuals, groups and joins; a linear head."""
    width = draw(st.integers(2, 5))
    layers, channels = [nn.Conv2d(2, width, 1)], width
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["conv", "norm", "add", "join", "grouped", "depthwise"]))
        width = draw(st.integers(2, 5))
        if kind == "conv":
            layers.append(nn.Conv2d(channels, width, draw(st.sampled_from([1, 3])), padding=1))
            channels = width
        elif kind == "norm":
            layers.append(nn.BatchNorm2d(channels))
        elif kind == "grouped" and channels % 2 == 0:
            layers.append(nn.Conv2d(channels, 2 * width, 1, groups=2))
            channels = 2 * width
        elif kind == "depthwise":
            layers.append(nn.Conv2d(channels, channels, 3, padding=1, groups=channels))
        else:
            body = nn.Sequential(
                nn.Conv2d(channels, width, 1), draw(activations()), nn.Conv2d(width, channels, 1)
            )
            layers.append(Branches(nn.Identity(), body, kind == "join"))
            channels *= 1 + (kind == "join")
        layers.append(draw(activations()))
    pool = draw(st.sampled_from([nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(2)]))
    positions = 4 if isinstance(pool, nn.AdaptiveMaxPool2d) else 1
    return nn.Sequential(*layers, pool, nn.Flatten(), nn.Linear(channels * positions, 2)).double()


def activations():
    return st.sampled_from(ACTIVATIONS).map(lambda cls: cls())


X = torch.randn(3, 2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@torch.no_grad()
def outputs(model):
    """In eval and in train mode."""
    return torch.stack([copy.deepcopy(model).train(mode)(X) for mode in (False, True)])


def distance(a, b):
    return float((a - b).abs().max() / a.abs().max())


@few
@given(networks(), RULES, st.sampled_from([1.3, 2, 2.5]))
def test_growing_any_network_twice_keeps_its_function(model, rule, by):
    before, grower = outputs(model), gn.Grower(model, X)
    for seed in range(2):
        grower.grow(gn.Widen(growable(grower), by=by, rule=rule), seed=seed)
    assert distance(before, outputs(model)) <= 1e-12


@few
@given(networks(), RULES, RULES)
def test_the_order_of_two_growths_does_not_matter_for_the_function(model, one, other):
    names = growable(gn.Grower(model, X))
    first, second = names[: len(names) // 2], names[len(names) // 2 :]
    if not first:
        return
    shapes, results = [], []
    for order in ((first, one), (second, other)), ((second, other), (first, one)):
        twin = copy.deepcopy(model)
        grower = gn.Grower(twin, X)
        for where, rule in order:
            grower.grow(gn.Widen(where, add=2, rule=rule))
        shapes.append({n: p.shape for n, p in twin.named_parameters()})
        results.append(outputs(twin))
    assert shapes[0] == shapes[1]
    assert distance(results[0], results[1]) <= 1e-12
    assert distance(outputs(model), results[0]) <= 1e-12


@few
@given(networks(), st.integers(1, 3), st.integers(1, 3))
def test_growing_twice_has_the_shapes_of_growing_once_by_the_sum(model, a, b):
    once, twice = copy.deepcopy(model), copy.deepcopy(model)
    name = growable(gn.Grower(model, X))[0]
    step = next(g.step for g in gn.Grower(model, X).groups if g.name == name)
    gn.Grower(once, X).grow(gn.Widen(name, add=(a + b) * step))
    grower = gn.Grower(twice, X)
    for n in (a, b):
        grower.grow(gn.Widen(name, add=n * step))
    assert [p.shape for p in once.parameters()] == [p.shape for p in twice.parameters()]
    assert distance(outputs(once), outputs(twice)) <= 1e-12


@few
@given(networks())
def test_analysing_again_finds_the_same_groups(model):
    assert gn.Grower(model, X).groups == gn.Grower(copy.deepcopy(model), X).groups
