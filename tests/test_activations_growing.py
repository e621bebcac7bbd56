"""Networks with P-activations grow: gates follow their channels, and the function is kept."""

import copy

import pytest
import torch
from torch import nn

import gnomon as gn
from contracts import answers, change
from gnomon.activations import PActivation, PBatchNorm, gates

RULES = [gn.R2R(), gn.Net2Net(), gn.NetMorph(), gn.NetMorph(permute=True), gn.Hybrid()]
ACTIVATIONS = [nn.ReLU, nn.GELU, nn.Tanh, nn.PReLU, nn.Softplus]  # PReLU: guarded
X = torch.randn(4, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
V = torch.randn(5, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def learned(model):
    """In float64, with gates strictly between the ends."""
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for a in gates(model.double()).values():
            a.copy_(0.1 + 0.8 * torch.rand(a.shape, generator=draw))
    return model


def convolutional(phi, each, *, clamp=False, norm=True):
    def behind(width):
        channels = width if each else None
        p = PActivation(phi(), channels=channels, clamp=clamp)
        return [PBatchNorm(nn.BatchNorm2d(width), channels=channels), p] if norm else [p]

    return learned(nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1), *behind(5), nn.Conv2d(5, 4, 3), *behind(4),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 2),
    ))  # fmt: skip


def dense(phi, each, *, clamp=False, norm=False):
    def p(width):
        return PActivation(phi(), channels=width if each else None, dim=-1, clamp=clamp)

    return learned(nn.Sequential(nn.Linear(3, 6), p(6), nn.Linear(6, 4), p(4), nn.Linear(4, 2)))


def grow(model, x, rule):
    old, grower = copy.deepcopy(model), gn.Grower(model, x)
    grower.grow(gn.Widen("*", by=1.6, rule=rule))
    return max(change(answers(old, x, mode), answers(model, x, mode)) for mode in (False, True))


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("each", [False, True], ids=["one", "each"])
@pytest.mark.parametrize(("make", "x"), [(convolutional, X), (dense, V)], ids=["conv", "mlp"])
def test_widening_through_learned_gates_keeps_the_function(make, x, each, rule):
    model = make(nn.Tanh, each)
    assert grow(model, x, rule) <= 1e-12
    widths = [m.channels for m in model if isinstance(m, PActivation)]
    assert widths == ([m.weight.shape[0] for m in model if hasattr(m, "weight")][:2] if each
                      else [None, None])  # fmt: skip


@pytest.mark.parametrize("phi", ACTIVATIONS)
@pytest.mark.parametrize("clamp", [False, True])
def test_widening_works_for_every_kind_of_activation(phi, clamp):
    assert grow(convolutional(phi, True, clamp=clamp), X, gn.R2R()) <= 1e-12


def test_gates_are_followers_and_one_gate_is_no_slot():
    def slots(model):
        return {(s.name, s.role) for g in gn.Grower(model, X).groups for s in g.slots}

    assert {("1.a", "follow"), ("2.a", "follow")} <= slots(convolutional(nn.SiLU, True))
    assert not {name for name, _ in slots(convolutional(nn.SiLU, False)) if name.endswith(".a")}


def test_twins_share_their_gate_and_new_gates_are_the_mean_of_the_old():
    model = dense(nn.Tanh, True)
    old = model[1].a.detach().clone()
    gn.Grower(model, V).grow(gn.Widen("0", add=2))
    assert torch.equal(model[1].a[:6], old)
    assert torch.allclose(model[1].a[6:], old.mean())


@pytest.mark.parametrize("phi", [nn.Tanh, nn.GELU, nn.SiLU, nn.ELU, nn.LeakyReLU])
@pytest.mark.parametrize("each", [False, True], ids=["one", "each"])
@pytest.mark.parametrize("make", [convolutional, dense])
def test_zero_writers_live_through_a_p_activation(phi, each, make):
    x = X if make is convolutional else V
    model = make(phi, each, norm=False)
    first, width = model[0], model[0].weight.shape[0]
    assert grow(model, x, gn.NetMorph(zero="writers")) <= 1e-12
    new = first.weight[width:]
    assert len(new) and not bool(new.any())
    (model(x) ** 2).sum().backward()
    assert bool(first.weight.grad[width:].flatten(1).any(1).all())


def test_a_grown_network_goes_on_growing_and_learning():
    model = convolutional(nn.GELU, True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    grower = gn.Grower(model, X, optimizer)
    for _ in range(2):
        (model(X) ** 2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        grower.grow(gn.Widen("*", by=1.5, rule=gn.R2R()))
    before = {name: a.detach().clone() for name, a in gates(model).items()}
    (model(X) ** 2).mean().backward()
    optimizer.step()
    assert all(bool((a != before[name]).all()) for name, a in gates(model).items())


@pytest.mark.parametrize("phi", [nn.Sigmoid, nn.Softplus, nn.ReLU, nn.PReLU])
def test_a_network_that_ends_in_a_p_activation_starts_at_zero_and_alive(phi):
    """Sigmoid has no root, and ReLU no slope at its own: the identity has both."""
    x = torch.randn(5, 3)
    module = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 4), PActivation(phi()))
    assert not bool(gn.start_at_zero(module)(x).any())
    module(x).sum().backward()
    assert all(bool(p.grad.any()) for p in (module[0].weight, module[2].weight))
