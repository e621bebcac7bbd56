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


def same_again(model, x):
    """What the settings make, with the model's weights, is the same function."""
    again = type(model)(model.config).double()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(x), model(x))


def test_of_numbers_that_give_the_same_shapes_those_of_the_same_function_are_found():
    """`heads` 4 -> 6 has the shapes of `size` 6 -> 9, and comes first."""
    torch.manual_seed(0)
    model = Attention(SimpleNamespace(heads=4, size=6, inner=4)).double()
    x = torch.randn(2, 5, 6).double()
    before = model(x).detach()
    grower = gn.Grower(model, x)
    width = next(g.name for g in grower.groups if g.kind == "query-key dimension")
    grower.grow(gn.Widen([width, "up"], by=1.5))
    assert vars(model.config) == {"heads": 4, "size": 9, "inner": 6} and model.size == 9
    assert (model(x) - before).abs().max() <= 1e-12
    same_again(model, x)


class Grouped(nn.Module):
    """Heads that no attribute counts, those of keys fewer; what is said first has their number."""

    def __init__(self, config):
        super().__init__()
        self.config, self.size = config, config.size
        self.embed = nn.Linear(3, config.width)
        self.q = nn.Linear(config.width, config.heads * config.size)
        self.k = nn.Linear(config.width, config.shared * config.size)
        self.v = nn.Linear(config.width, config.shared * config.size)
        self.out = nn.Linear(self.q.out_features, config.width)
        self.head = nn.Linear(config.width, 3)
        turn = torch.arange(config.size) * config.turn
        self.register_buffer("turn", turn.cos(), persistent=False)

    def forward(self, x):
        x, (batch, length, _) = self.embed(x), x.shape
        split = (batch, length, -1, self.size)
        q, k, v = (f(x).view(split).transpose(1, 2) for f in (self.q, self.k, self.v))
        q = q.unflatten(1, (k.shape[1], -1))
        weights = ((q * self.turn) @ (k * self.turn).unsqueeze(2).mT * 0.5).softmax(-1)
        mixed = (weights @ v.unsqueeze(2)).flatten(1, 2).transpose(1, 2)
        return self.head(x + self.out(mixed.reshape(batch, length, -1)))


@pytest.mark.parametrize("heads, shared, size", [(6, 6, 4), (6, 6, 6), (6, 2, 4), (4, 2, 2)])
def test_the_counts_of_heads_are_found_though_no_attribute_has_them(heads, shared, size):
    torch.manual_seed(0)
    config = SimpleNamespace(size=size, width=8, heads=heads, shared=shared, turn=0.1)
    model, x = Grouped(config).double(), torch.randn(2, 5, 3).double()
    before = model(x).detach()
    grower = gn.Grower(model, x)
    names = [g.name for g in grower.groups if "heads" in g.kind and g.verdict == "growable"]
    for by in (2, 1.5):
        grower.grow(gn.Widen(["embed", *names], by=by))
    assert model.config.size == size and model.config.heads > heads
    assert (model(x) - before).abs().max() <= 1e-12
    same_again(model, x)


class Together(nn.Module):
    """No shape tells of its heads; two widths must be equal, or there is another layer."""

    def __init__(self, config):
        super().__init__()
        self.config, self.size = config, config.width // config.heads
        self.embed = nn.Linear(3, config.embedded)
        if config.embedded != config.width:
            self.between = nn.Linear(config.embedded, config.width)
        self.q, self.k, self.v = (nn.Linear(config.width, config.width) for _ in range(3))
        self.out, self.head = nn.Linear(config.width, config.width), nn.Linear(config.width, 3)

    def forward(self, x):
        x, (batch, length, _) = self.embed(x), x.shape
        split = (batch, length, -1, self.size)
        q, k, v = (f(x).view(split).transpose(1, 2) for f in (self.q, self.k, self.v))
        mixed = ((q @ k.mT * 0.5).softmax(-1) @ v).transpose(1, 2)
        return self.head(x + self.out(mixed.reshape(batch, length, -1)))


@pytest.mark.parametrize("first", [{}, {"start": 3, "end": 12}])
def test_numbers_are_found_together_and_no_others_that_have_the_same_value(first):
    torch.manual_seed(0)
    config = SimpleNamespace(**first, width=12, embedded=12, heads=3, pad=3, limit=12)
    model, x = Together(config).double(), torch.randn(2, 5, 3).double()
    before = model(x).detach()
    grower = gn.Grower(model, x)
    heads = next(g.name for g in grower.groups if g.kind == "heads")
    grower.grow(gn.Widen(["embed", heads], by=2))
    grown = {"width": 24, "embedded": 24, "heads": 6, "pad": 3, "limit": 12}
    assert vars(model.config) == first | grown
    assert (model(x) - before).abs().max() <= 1e-12
    same_again(model, x)


def silent_about(model, x, where, reason):
    """It grows, and is told that its settings do not say it: they stay as they are."""
    said, before = copy.deepcopy(vars(model.config)), model(x).detach()
    receipt = gn.Grower(model, x).grow(gn.Widen(where, add=4))
    assert "no number in 'config' says these widths" in str(receipt)
    assert reason in str(receipt) and vars(model.config) == said
    assert (model(x) - before).abs().max() <= 1e-12


class Scaled(Model):
    """Its width is in a number that the code multiplies with, and in a buffer of no file."""

    def __init__(self, config):
        super().__init__(config)
        if config.other:
            self.scale = config.inner**-0.5
        else:
            self.register_buffer("scale", torch.tensor(config.inner**-0.5), persistent=False)

    def forward(self, x):
        return super().forward(x) * self.scale


@pytest.mark.parametrize("other, reason", [(1, "a constant of mul went"), (0, "'scale', which is")])
def test_numbers_of_the_right_shapes_and_another_function_are_said_to_be_none(other, reason):
    small, x = made(other=other)
    silent_about(Scaled(small.config).double(), x, "blocks.*up", reason)


class Swapped(Model):
    """Uses its layers in an order that its width decides."""

    def __init__(self, config):
        super().__init__(config)
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 6)
        self.order = [self.first, self.last] if config.inner == 10 else [self.last, self.first]

    def forward(self, x):
        for layer in self.order:
            x = layer(x)
        return super().forward(x)


def test_the_same_operations_with_other_parameters_are_another_function():
    small, x = made()
    silent_about(Swapped(small.config).double(), x, "blocks.*up", "another order")


class Around(nn.Module):
    """Holds what is built from settings, and something else that grows with it."""

    def __init__(self, inner):
        super().__init__()
        self.before, self.inner = nn.Linear(3, 6), inner
        self.after, self.last = nn.Linear(3, 7), nn.Linear(7, 2)

    def forward(self, x):
        return self.last(self.after(self.inner(self.before(x))).relu())


@pytest.mark.parametrize("fake", [False, True])
def test_settings_of_a_part_are_found_within_the_whole(fake, monkeypatch):
    if fake:
        monkeypatch.setattr("gnomon.recording.tape.REAL_PARAMETERS", 0)
    inner, _ = made()
    model, x = Around(inner).double(), torch.randn(4, 3).double()
    before = model(x).detach()
    grower = gn.Grower(model, x)
    receipt = grower.grow(gn.Widen("inner.blocks.*up", by=2))
    assert model.inner.config.inner == 20 and "built from it again" in str(receipt)
    assert (model(x) - before).abs().max() <= 1e-12
    same_again(model.inner, model.before(x))
    receipt = grower.grow(gn.Widen("inner.blocks.0.up", by=2))
    assert model.inner.config.inner == 20 and "no number in 'config'" in str(receipt)


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
