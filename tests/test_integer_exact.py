"""On integer weights and inputs nothing rounds: R2R and zero readers are exact to the bit."""

import pytest
import torch
from torch import nn

import gnomon as gn
from contracts import answers, growable
from gnomon.draw import Draw

RULES = [gn.R2R(), gn.NetMorph(), gn.NetMorph(permute=True), gn.Hybrid(noise=1.0), gn.Net2Net()]


@pytest.fixture
def integer_draws(monkeypatch):
    """Draw integers, so that pairs, triples and shares are exact numbers of a few bits."""

    def weights(self, shape):
        return self.below(7, shape).double() - 3

    monkeypatch.setattr(Draw, "weights", weights)


def integers(model):
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randint(-4, 5, p.shape, generator=draw))
    return model


def networks():
    conv = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(),
        nn.Conv2d(4, 6, 3, padding=1, groups=2), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(24, 3),
    )  # fmt: skip
    dense = nn.Sequential(
        nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 6), nn.Hardtanh(-9, 9), nn.Linear(6, 2)
    )
    draw = torch.Generator().manual_seed(1)
    yield conv, torch.randint(-3, 4, (3, 2, 4, 4), generator=draw)
    yield dense, torch.randint(-3, 4, (7, 5), generator=draw)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("by", [1.2, 2, 2.5])
def test_growing_is_exact_to_the_bit(rule, by, dtype, integer_draws):
    for model, x in networks():
        integers(model).to(dtype)
        x = x.to(dtype)
        before = answers(model, x, False)
        grower = gn.Grower(model, x)
        receipt = grower.grow(gn.Widen(growable(grower), by=by, rule=rule))
        assert receipt.largest_change == 0.0
        assert all(torch.equal(a, b) for a, b in zip(before, answers(model, x, False), strict=True))
        assert all(x.any() for x in before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_zero_readers_are_exact_to_the_bit_whatever_is_drawn(dtype):
    for model, x in networks():
        integers(model).to(dtype)
        x = x.to(dtype)
        before = answers(model, x, False)
        receipt = gn.Grower(model, x).grow(gn.Widen("*", by=2, rule=gn.NetMorph()))
        assert receipt.largest_change == 0.0
        assert all(torch.equal(a, b) for a, b in zip(before, answers(model, x, False), strict=True))
