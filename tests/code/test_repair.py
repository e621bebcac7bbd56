"""Repair: widths kept in attributes are found and changed, or everything is undone."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gnomon as gn

X = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Heads(nn.Module):
    """Attention as many write it: num_heads, head_dim and hidden_size are integers."""

    def __init__(self):
        super().__init__()
        self.num_heads, self.head_dim = 2, 3
        self.hidden_size = 6
        self.qkv = nn.Linear(6, 18)
        self.out = nn.Linear(6, 6)

    def forward(self, x):
        b, t, _ = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        mixed = F.softmax(q @ k.transpose(-1, -2) / 3**0.5, -1) @ v
        return self.out(mixed.transpose(1, 2).reshape(b, t, self.hidden_size))


def test_the_number_of_heads_grows_with_its_attributes():
    model = Heads().double()
    before = model(X).detach()
    grower = gn.Grower(model, X)
    receipt = grower.grow(gn.Widen("qkv[0]", add=18))  # a head has 3 channels in q, k and v
    assert (model.num_heads, model.head_dim, model.hidden_size) == (4, 3, 12)
    assert torch.allclose(model(X), before, rtol=0, atol=1e-13)
    changed = {(a.path, a.name): (a.old, a.new) for a in receipt.plan.attributes}
    assert changed["", "num_heads"] == (2, 4) and changed["", "hidden_size"] == (6, 12)
    assert grower.history[0].attributes == receipt.plan.attributes


class Sizes(nn.Module):
    """A list, a tuple and a plain integer."""

    def __init__(self):
        super().__init__()
        self.enter, self.head = nn.Linear(6, 9), nn.Linear(9, 2)
        self.sizes = [4, 5]
        self.shape = (4, 9)
        self.unrelated = 9

    def forward(self, x):
        y = torch.tanh(self.enter(x))
        a, b = y.split(self.sizes, -1)
        return self.head(torch.cat([a, b], -1).reshape(-1, *self.shape))


def test_lists_and_tuples_keep_their_type_and_unrelated_numbers_their_value():
    model = Sizes().double()
    grower = gn.Grower(model, X)
    receipt = grower.grow(gn.Widen("enter[1]", add=2))
    assert model.sizes == [4, 7] and model.shape == (4, 11) and model.unrelated == 9
    assert receipt.largest_change <= 1e-12


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.width = width
        self.up, self.down = nn.Linear(6, width), nn.Linear(width, 6)

    def forward(self, x):
        return x + self.down(torch.tanh(self.up(x)).view(*x.shape[:-1], self.width))


def test_modules_of_one_class_are_told_apart():
    model = nn.Sequential(Block(5), Block(5), nn.Linear(6, 2)).double()
    gn.Grower(model, X).grow(gn.Widen("1.up", by=2))
    assert (model[0].width, model[1].width) == (5, 10)


def test_several_modules_that_need_it_are_all_repaired():
    model = nn.Sequential(Block(5), Block(5), Block(5), nn.Linear(6, 2)).double()
    gn.Grower(model, X).grow(gn.Widen("*", by=2))
    assert [b.width for b in model[:3]] == [10, 10, 10]


class Scaled(nn.Module):
    """The width is used as a number: no shape would show that it is wrong."""

    def __init__(self, own=True):
        super().__init__()
        self.width = 6
        self.up, self.down = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.down(torch.tanh(self.up(x))) / self.up.weight.shape[0] ** 0.5


def test_a_scale_that_follows_the_width_is_refused_not_accepted():
    model = Scaled().double()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(gn.GrowthError, match=r"constant|differ"):
        gn.Grower(model, X).grow(gn.Widen("up", by=2))
    assert all(torch.equal(x, before[n]) for n, x in model.state_dict().items())


class Literal(Block):
    def forward(self, x):
        return x + self.down(torch.tanh(self.up(x)).view(-1, 5)).view(x.shape)


def test_a_literal_is_refused_with_the_module_and_the_operation_and_undone():
    model = nn.Sequential(Literal(5), nn.Linear(6, 2)).double()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(gn.Unsupported, match=r"code of '0'.*not kept in an attribute"):
        gn.Grower(model, X).grow(gn.Widen("0.up", by=2))
    assert model[0].width == 5 and model[0].up.out_features == 5
    assert all(torch.equal(x, before[n]) for n, x in model.state_dict().items())


def test_a_repaired_model_can_be_saved_and_loaded(tmp_path):
    model = Heads().double()
    grower = gn.Grower(model, X)
    grower.grow(gn.Widen("qkv[0]", add=1))
    gn.save(grower, tmp_path / "heads.safetensors")
    again = gn.load(tmp_path / "heads.safetensors", lambda: Heads().double(), X)
    assert (again.num_heads, again.hidden_size) == (3, 9)
    assert torch.equal(again(X), model(X))


def test_a_channel_count_in_a_view_is_found_by_its_product():
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 3, 3), nn.Linear(24, 2)
            self.flat_features = 24

        def forward(self, x):
            return self.head(self.conv(x).relu().view(-1, self.flat_features))

    model = Flat().double()
    gn.Grower(model, X.unsqueeze(1)).grow(gn.Widen("conv", by=2))
    assert model.flat_features == 48 and model.head.in_features == 48
