"""A stream that is widened up to a residual block, and no further."""

import copy

import pytest
import torch
from torch import nn

import gnomon as gn
from contracts import answers, change, growable
from gnomon.blocks.one_ended import OneEnded, ZeroPadded
from gnomon.models.resnet_cifar import ResNetCifar10
from toy_images import Block
from toys import shake
from untouched import refused

RULES = {"R2R": gn.R2R(), "Net2Net": gn.Net2Net(), "NetMorph": gn.NetMorph(), "Hybrid": gn.Hybrid()}
IMAGES = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
every_rule = pytest.mark.parametrize("rule", RULES)


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return shake(ResNetCifar10(1 / 16, classes=3).double())


def stream(grower, path):
    """The group that a block reads and others write."""
    return next(
        g.name
        for g in grower.groups
        if any(s.role == "read" and s.name.startswith(f"{path}.body") for s in g.slots)
        and any(s.role == "write" and not s.name.startswith(path) for s in g.slots)
    )


def outputs(model, x):
    return [answers(model, x, training) for training in (False, True)]


def assert_kept(before, model, x, limit=1e-12):
    for old, new in zip(before, outputs(model, x), strict=True):
        assert change(old, new) <= limit


@every_rule
def test_the_stream_ends_at_the_block_and_the_function_stays(rule):
    model = network()
    before, shapes = outputs(model, IMAGES), {n: p.shape for n, p in model.named_parameters()}
    grower = gn.Grower(model, IMAGES)
    for seed, width in enumerate((8, 12, 16)):  # as often as one likes
        name = stream(grower, "stage1.0")
        receipt = grower.grow(gn.Widen(name, add=4, rule=RULES[rule], until="stage1.0"), seed=seed)
        assert receipt.preserves and receipt.largest_change <= 1e-12
        assert_kept(before, model, IMAGES)
        shortcut = model.stage1[0].shortcut
        assert isinstance(shortcut, OneEnded) and shortcut.weight.shape == (4, width, 1, 1)
        assert len(receipt.plan.modules) == (seed == 0)
    grown = {n for n, p in model.named_parameters() if shapes.get(n) != p.shape}
    assert grown == {
        "stem.conv.weight", "stem.norm.weight", "stem.norm.bias",
        "stage1.0.body.conv1.weight", "stage1.0.shortcut.weight",
    }  # fmt: skip


def residual(shortcut, inputs=4, outputs=4, stride=1, after=None):
    body = nn.Sequential(
        nn.Conv2d(inputs, 3, 3, stride, 1), nn.BatchNorm2d(3), nn.ReLU(),
        nn.Conv2d(3, outputs, 3, padding=1),
    )  # fmt: skip
    return gn.Residual(body, shortcut, after)


SHORTCUTS = {
    "identity": lambda: residual(None),
    "identity and relu": lambda: residual(None, after=nn.ReLU()),
    "zero padded": lambda: residual(ZeroPadded(3, 2), 4, 7, 2),
    "zero padded, no more": lambda: residual(ZeroPadded(0, 2), 4, 4, 2),
    "average pool": lambda: residual(nn.AvgPool2d(2), stride=2),
    "max pool": lambda: residual(nn.MaxPool2d(3, 2, 1), stride=2),
    "relu": lambda: residual(nn.ReLU()),
}


def around(block):
    width = block.body[3].out_channels
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 2))
    stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
    return shake(nn.Sequential(stem, block, nn.ReLU(), head).double())


@pytest.mark.parametrize("rule", ["R2R", "Net2Net"])
@pytest.mark.parametrize("kind", SHORTCUTS)
def test_every_shortcut_without_weights_can_end_a_stream(kind, rule):
    model = around(SHORTCUTS[kind]())
    before, width = outputs(model, IMAGES), model[1].body[3].out_channels
    grower = gn.Grower(model, IMAGES)
    for seed in range(2):
        grower.grow(gn.Widen("0.0", add=3, rule=RULES[rule], until="1"), seed=seed)
        assert_kept(before, model, IMAGES)
    assert model[0][0].out_channels == 10 and model[3][2].weight.shape == (2, width)
    assert model[1](model[0](IMAGES)).shape[1] == width


@pytest.mark.parametrize("rule", ["R2R", "Hybrid", "NetMorph"])
def test_the_new_columns_of_the_shortcut_learn(rule):
    model = around(residual(None))
    gn.Grower(model, IMAGES).grow(gn.Widen("0.0", add=4, rule=RULES[rule], until="1"))
    weight = model[1].shortcut.weight
    slopes = torch.zeros_like(weight)
    descent = torch.optim.SGD(model.parameters(), 0.01)
    for _ in range(2):
        descent.zero_grad()
        model(IMAGES).square().sum().backward()
        slopes = torch.maximum(slopes, weight.grad.abs())
        descent.step()
    assert slopes.amax((0, 2, 3)).min() > 1e-9
    assert "kept" not in dict(model[1].shortcut.named_parameters())


def test_linear_streams_end_too():
    body = nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 4))
    model = nn.Sequential(nn.Linear(3, 4), gn.Residual(body), nn.Linear(4, 2)).double()
    x = torch.randn(6, 3, dtype=torch.float64)
    before = outputs(model, x)
    gn.Grower(model, x).grow(gn.Widen("0", add=3, until="1"))
    assert_kept(before, model, x)
    assert model[1].shortcut.weight.shape == (4, 7) and model[2].weight.shape == (2, 4)


def test_two_blocks_in_a_row_the_stream_ends_at_the_second():
    model = network()
    before = outputs(model, IMAGES)
    grower = gn.Grower(model, IMAGES)
    with torch.no_grad():
        grower.grow(gn.Widen(stream(grower, "stage1.0"), add=2, until="stage1.1"))
    assert_kept(before, model, IMAGES)
    assert model.stage1[0].body.conv2.weight.shape[0] == 6
    assert model.stage1[1].body.conv2.weight.shape[0] == 4


def test_until_several_blocks():
    model = network()
    before = outputs(model, IMAGES)
    grower = gn.Grower(model, IMAGES)
    names = growable(grower)
    plan = grower.plan(gn.Widen(names, by=2, until=["stage1.0", "stage1.1", "stage2.1"]))
    assert [m.place for m in plan.modules] == [
        f"{p}.shortcut" for p in ("stage1.0", "stage1.1", "stage2.1")
    ]
    assert grower.grow(plan).preserves
    assert_kept(before, model, IMAGES)


def test_in_foreign_code_the_whole_stream_grows_and_the_note_says_so():
    model = shake(nn.Sequential(nn.Conv2d(3, 4, 1), Block(4, 4), nn.Conv2d(4, 2, 1)).double())
    before = outputs(model, IMAGES)
    grower = gn.Grower(model, IMAGES)
    plan = grower.plan(gn.Widen("0", add=2, until="1"))
    assert any("'1'" in n and "Block" in n and "whole stream" in n for n in plan.notes)
    assert plan.modules == ()
    grower.grow(plan)
    assert_kept(before, model, IMAGES)
    assert model[1].conv2.weight.shape[0] == 6 and model[2].weight.shape[1] == 6


def test_a_shortcut_with_weights_ends_it_by_itself():
    model = network()
    grower = gn.Grower(model, IMAGES)
    plan = grower.plan(gn.Widen(stream(grower, "stage2.0"), add=2, until="stage2.0"))
    assert plan.modules == () and any("by itself" in note for note in plan.notes)


@pytest.mark.parametrize("until", ["nowhere", "stem.conv.x", "stage1.9"])
def test_a_path_of_no_module_is_refused(until):
    model = network()
    with refused(gn.NoSuchGroup, f"'{until}'", of=model):
        gn.Grower(model, IMAGES).grow(gn.Widen("stem.conv", add=2, until=until))


@pytest.mark.parametrize("until", [3, [3], [""], [None], b"x"], ids=repr)
def test_until_must_name_modules(until):
    with pytest.raises(ValueError, match="until"):
        gn.Widen("0", add=2, until=until)


def test_planning_leaves_the_model_as_it_was_and_the_plan_fits_a_copy():
    model = network()
    average = copy.deepcopy(model)
    with torch.no_grad():
        for p in average.parameters():
            p.mul_(1.1)
    grower = gn.Grower(model, IMAGES)
    plan = grower.plan(gn.Widen(stream(grower, "stage1.0"), add=4, until="stage1.0"))
    assert "in the place of 'stage1.0.shortcut'" in str(plan)
    assert type(model.stage1[0].shortcut) is nn.Identity
    before = outputs(average, IMAGES)
    gn.Grower(average, IMAGES).grow(gn.Plan.from_json(plan.to_json()))
    assert_kept(before, average, IMAGES)


def test_saved_and_loaded(tmp_path):
    model = network()
    grower = gn.Grower(model, IMAGES)
    for until in ("stage1.0", "stage1.1"):
        grower.grow(gn.Widen(stream(grower, until), add=2, until=until))
    gn.save(grower, tmp_path / "x.safetensors")
    again = gn.load(tmp_path / "x.safetensors", network, IMAGES)
    assert torch.equal(again(IMAGES), model(IMAGES))
    assert again.state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize("bad", [{"dims": 4}, {"dims": -1}, {"outputs": 3}])
def test_a_shortcut_that_makes_no_sense_is_a_value_error(bad):
    with pytest.raises(ValueError):
        OneEnded(**{"inputs": 4, "outputs": 4, **bad})
    with pytest.raises(ValueError):
        ZeroPadded(-1)
    with pytest.raises(ValueError):
        ZeroPadded(1, 0)


def test_the_body_of_the_block_may_have_no_weights():
    model = nn.Sequential(nn.Linear(4, 6), gn.blocks.Residual(nn.Tanh()), nn.Linear(6, 3)).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    before = answers(model, x, False)
    receipt = gn.Grower(model, x).grow(gn.Widen("0", by=2, until="1"))
    assert receipt.preserves and change(before, answers(model, x, False)) <= 1e-12
    assert {p.dtype for p in model.parameters()} == {torch.float64}
