"""Norms of queries and keys: their dimension grows by copies, and the keys' gain is divided."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gnomon as gn
from contracts import answers, change, loss
from toy_attention import NormedRotary, split_heads
from toys import Toy, noise
from untouched import bits

tokens = noise(2, 4, 5)


class Centred(NormedRotary):
    """LayerNorms, with biases."""

    norm = nn.LayerNorm


class ByHand(nn.Module):
    """RMSNorms by hand, over all heads at once, and a scale computed from the width."""

    def __init__(self):
        super().__init__()
        self.heads = 2
        self.q, self.k, self.v = nn.Linear(5, 8), nn.Linear(5, 8), nn.Linear(5, 6)
        self.out = nn.Linear(6, 5)
        self.q_gain, self.k_gain = nn.Parameter(torch.ones(8)), nn.Parameter(torch.ones(8))

    def normed(self, x, gain):
        return gain * (x * (x.square().mean(-1, keepdim=True) + 1e-3).rsqrt())

    def gains(self):
        return self.q_gain, self.k_gain

    def forward(self, x):
        q, k = (self.normed(f(x), g) for f, g in zip((self.q, self.k), self.gains(), strict=True))
        q, k, v = (split_heads(y, self.heads) for y in (q, k, self.v(x)))
        weights = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


class Shared(ByHand):
    """One gain for both."""

    def gains(self):
        return self.k_gain, self.k_gain


class OneMore(ByHand):
    """A gain of 1 + w."""

    def gains(self):
        return 1 + self.q_gain, 1 + self.k_gain


class Kept(ByHand):
    """The keys' gain is used elsewhere too."""

    def forward(self, x):
        return super().forward(x) + self.k_gain.square().sum()


class Bare(ByHand):
    """No gains."""

    def normed(self, x, gain):
        return F.rms_norm(x, (x.shape[-1],), eps=1e-3)

    def forward(self, x):
        return super().forward(x) + 0 * (self.q_gain.sum() + self.k_gain.sum())


def made(cls):
    return Toy(cls, tokens).model(), tokens(torch.Generator().manual_seed(3)).double()


def group(grower):
    return next(g for g in grower.groups if "query-key" in g.kind)


@pytest.mark.parametrize("cls", [NormedRotary, Centred, ByHand])
@pytest.mark.parametrize("rule", [gn.Net2Net(), gn.Net2Net(uneven=False)], ids=repr)
def test_copies_keep_the_product_and_part_ways(cls, rule):
    model, x = made(cls)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)

    def step():
        loss(model, x).backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    grower = gn.Grower(model, x, optimizer)
    for by in (2, 3) if rule.uneven else (2, 2):
        old = [answers(model, x, training) for training in (False, True)]
        name = group(grower).name
        assert group(grower).rules == ("Net2Net",)
        receipt = grower.grow(gn.Widen(name, by=by, rule=rule))
        gain = "k_gain" if cls is ByHand else "k_norm.weight"
        assert gain in receipt.plan.changed
        for before, training in zip(old, (False, True), strict=True):
            assert change(before, answers(model, x, training)) <= 1e-12
        step()
    loss(model, x).backward()
    assert all(p.grad.abs().max() > 0 for p in model.parameters())
    for _ in range(12):  # Adam parts shares of one sign slowly
        step()
    rows = model.q.weight.detach().view(2, -1, 5)
    assert (torch.pdist(rows[0]).min() > 1e-6) == rule.uneven


@pytest.mark.parametrize("cls", [NormedRotary, Centred, ByHand])
def test_rules_that_a_norm_would_notice_are_refused(cls):
    model, x = made(cls)
    before, grower = bits(model.state_dict()), gn.Grower(model, x)
    for rule in (gn.R2R(), gn.NetMorph(), gn.NetMorph(zero="writers"), gn.Hybrid()):
        with pytest.raises(gn.GrowthError):
            grower.grow(gn.Widen(group(grower).name, by=2, rule=rule))
    assert bits(model.state_dict()) == before


def test_heads_grow_beside_norms_of_each_head():
    for rule in (gn.R2R(), gn.NetMorph(), gn.Net2Net(), gn.Hybrid()):
        model, x = made(NormedRotary)
        old, grower = answers(model, x, False), gn.Grower(model, x)
        heads = next(g.name for g in grower.groups if g.kind == "heads")
        grower.grow(gn.Widen(heads, by=2, rule=rule))
        assert change(old, answers(model, x, False)) <= 1e-12


def test_heads_under_one_norm_are_copied_and_their_width_too():
    model, x = made(ByHand)
    old, grower = answers(model, x, False), gn.Grower(model, x)
    heads = next(g.name for g in grower.groups if g.kind == "heads")
    grower.grow(gn.Widen(heads, by=2, rule=gn.Net2Net()))
    grower.grow(gn.Widen(group(grower).name, by=2, rule=gn.Net2Net()))
    assert change(old, answers(model, x, False)) <= 1e-12
    model, x = made(ByHand)
    grower = gn.Grower(model, x)
    grower.grow(gn.Widen([heads, group(grower).name], by=2, rule=gn.Net2Net()))
    assert change(old, answers(model, x, False)) <= 1e-12 and model.q.out_features == 32


@pytest.mark.parametrize(
    ("cls", "match"),
    [
        (Shared, "both sides|used elsewhere"),
        (OneMore, "computed gain"),
        (Kept, "sum over the axis|used elsewhere"),
        (Bare, "both sides|on the way"),
    ],
)
def test_gains_that_cannot_be_divided_are_refused(cls, match):
    model, x = made(cls)
    before, grower = bits(model.state_dict()), gn.Grower(model, x)
    refused = [g for g in grower.groups if g.verdict == "refused"]
    rows = (g for g in refused if any(s.name == "q.bias" for s in g.slots))
    name = next(g.name for g in rows if not any(s.dim for s in g.slots))
    with pytest.raises(gn.GrowthError, match=match):
        grower.grow(gn.Widen(name, by=2, rule=gn.Net2Net()))
    assert bits(model.state_dict()) == before
