"""Settings of models go on describing them when their widths have grown."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import gnomon as gn


class Block(nn.Module):
    def __init__(self, config, place):
        super().__init__()
        self.place = place
        hidden = config.inner or 4 * config.width
        self.up, self.down = nn.Linear(config.width, hidden), nn.Linear(hidden, config.width)
        self.norm = nn.RMSNorm(config.width, config.eps)

    def forward(self, x):
        return x + self.down(torch.tanh(self.up(self.norm(x))))


class Model(nn.Module):
    """Built from settings alone, which a part of it holds too."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.depth))
        self.blocks[0].config = config
        self.head = nn.Linear(config.width, 3)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def made(**fields):
    torch.manual_seed(0)
    usual = {"other": 10, "nothing": None, "width": 6, "inner": 10, "depth": 2, "eps": 1e-3}
    model = Model(SimpleNamespace(**usual | fields)).double()
    return model, torch.randn(4, 6).double()


def shapes(model):
    return {n: x.shape for n, x in model.state_dict().items()}


class Checked(SimpleNamespace):
    """Refuses numbers above 10 in one of its fields, with an error of its own."""

    def __setattr__(self, name, value):
        if name == "other" and (value or 0) > 10:
            raise TypeError("other is 10 at most")
        super().__setattr__(name, value)


@pytest.mark.parametrize("other", [10, None])
def test_settings_may_refuse_numbers(other):
    model, x = made()
    model = Model(Checked(**vars(model.config) | {"other": other, "inner": other})).double()
    gn.Grower(model, x).grow(gn.Widen("blocks.*up", add=4))
    assert model.config.other == other and model.config.inner == (other or 24) + 4
    gn.Grower(model, x).grow(gn.Repeat("blocks.0"))
    assert model.config.depth == 3 and [block.place for block in model.blocks] == [0, 1, 2]


def test_where_no_number_may_be_raised_nothing_is_left_changed():
    model, x = made(depth=2)
    model = Model(Short(**vars(model.config))).double()
    plan = gn.Grower(model, x).plan(gn.Repeat("blocks.0", count=2))
    assert plan.notes == ("no number of the model's configuration describes the grown model",)
    assert model.config.depth == 2 and [block.place for block in model.blocks] == [0, 1]


class Short(SimpleNamespace):
    """Has two blocks at most."""

    def __setattr__(self, name, value):
        if name == "depth" and value > 2:
            raise TypeError("depth is 2 at most")
        super().__setattr__(name, value)


@pytest.mark.parametrize("inner", [10, None])
def test_a_number_is_found_by_what_is_built_with_it(inner):
    model, x = made(inner=inner)
    theirs, before = model.config, model(x).detach()
    grower = gn.Grower(model, x)
    plan = grower.plan(gn.Widen("blocks.*up", add=4))
    assert model.config is theirs and any("built from it again" in n for n in plan.notes)
    wide = (inner or 24) + 4
    assert f"config.inner {inner} -> {wide}" in str(plan)
    receipt = grower.grow(plan)
    assert receipt.preserves and (model(x) - before).abs().max() <= 1e-12
    assert model.config.inner == wide and model.blocks[0].config is model.config
    assert theirs.inner == inner and vars(model.config) == vars(theirs) | {"inner": wide}
    again = Model(model.config).double()
    assert shapes(again) == shapes(model)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(x), model(x))


def test_a_second_growth_and_a_file_go_on_from_there(tmp_path):
    model, x = made(inner=None)
    small = copy.deepcopy(model)
    grower = gn.Grower(model, x)
    grower.grow(gn.Widen("blocks.*up", add=4))
    grower.grow(gn.Widen("blocks.*up", by=2))
    assert model.config.inner == 56
    gn.save(grower, tmp_path / "wide.safetensors")
    again = gn.load(tmp_path / "wide.safetensors", lambda: small, x)
    assert again.config.inner == 56 and torch.equal(again(x), model(x))


def test_uneven_widths_are_said_to_have_no_words_and_nothing_changes():
    for inner in (10, None):
        model, x = made(inner=inner)
        theirs = model.config
        receipt = gn.Grower(model, x).grow(gn.Widen("blocks.0.up", add=4))
        assert model.config is theirs and theirs.inner == inner
        assert "no number in 'config' says these widths" in str(receipt)
        assert receipt.plan.attributes == () or "." not in receipt.plan.attributes[0].name


def test_the_eps_of_a_stream_is_said_with_its_width_or_nothing_is():
    """What has the right shapes and another eps would compute something else."""
    small, x = made()
    model = Streamed(small.config).double()
    grower = gn.Grower(model, x)
    receipt = grower.grow(gn.Widen("embed", add=2, rule=gn.NetMorph(zero="writers")))
    assert model.config.width == 8
    assert model.config.eps == pytest.approx(1e-3 * 6 / 8)
    assert "built from it again" in str(receipt)
    again = Streamed(model.config).double()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(x), model(x))


class Streamed(Model):
    def __init__(self, config):
        super().__init__(config)
        self.embed, self.last = nn.Linear(6, config.width), nn.RMSNorm(config.width, config.eps)

    def forward(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.last(x))


def test_a_refused_growth_leaves_the_settings(monkeypatch):
    model, x = made()
    theirs = model.config
    grower = gn.Grower(model, x)

    def fail(*args, **kwargs):
        raise gn.NotProved("no")

    monkeypatch.setattr("gnomon.growth.accept", fail)
    with pytest.raises(gn.NotProved):
        grower.grow(gn.Widen("blocks.*up", add=4))
    assert model.config is theirs and theirs.inner == 10


def test_a_plan_for_other_settings_is_stale():
    model, x = made()
    plan = gn.Grower(model, x).plan(gn.Widen("blocks.*up", add=4))
    plan = gn.Plan.from_json(plan.to_json())
    other, _ = made()
    other.config.inner = 11
    before = shapes(other)
    with pytest.raises(gn.Stale, match=r"config.inner"):
        gn.Grower(other, x).grow(plan)
    assert shapes(other) == before


class Attention(nn.Module):
    """Heads and their width have the same shapes the other way round."""

    def __init__(self, config):
        super().__init__()
        self.config, inside = config, config.heads * config.size
        self.heads, self.size, self.inside = config.heads, config.size, inside
        self.q, self.k, self.v = (nn.Linear(6, inside) for _ in range(3))
        self.out = nn.Linear(inside, 6)
        self.up, self.down = nn.Linear(6, config.inner), nn.Linear(config.inner, 6)

    def forward(self, x):
        shape = (*x.shape[:2], self.heads, self.size)
        q, k, v = (f(x).view(shape).transpose(1, 2) for f in (self.q, self.k, self.v))
        mixed = ((q @ k.mT * 0.5).softmax(-1) @ v).transpose(1, 2)
        x = x + self.out(mixed.reshape(*x.shape[:2], self.inside))
        return x + self.down(torch.tanh(self.up(x)))


def test_settings_of_the_same_shapes_and_another_function_are_refused():
    torch.manual_seed(0)
    model = Attention(SimpleNamespace(heads=4, size=6, inner=4)).double()
    x, before = torch.randn(2, 5, 6).double(), copy.deepcopy(model.state_dict())
    grower = gn.Grower(model, x)
    width = next(g.name for g in grower.groups if g.kind == "query-key dimension")
    with pytest.raises(gn.Unsupported, match="the shapes are the same, the function is not"):
        grower.grow(gn.Widen([width, "up"], by=1.5))
    assert vars(model.config) == {"heads": 4, "size": 6, "inner": 4} and model.size == 6
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    grower.grow(gn.Widen(width, by=1.5))
    assert model.size == 9 and model.config.heads == 4


class Labelled(nn.Module):
    """Made from anything, its label."""

    def __init__(self, label):
        super().__init__()
        self.label, self.layers = str(label), nn.ModuleList([nn.Linear(3, 4), nn.Linear(4, 2)])

    def forward(self, x):
        return self.layers[1](self.layers[0](x).relu())


def test_tables_of_hooks_are_no_settings():
    model = nn.Sequential(Labelled("a"))
    plan = gn.Grower(model, torch.randn(2, 3)).plan(gn.Widen("0.layers.0", by=2))
    assert "built again" not in str(plan)
