"""Widen: how much, where, what is skipped, and what is an error."""

import pytest
import torch
from torch import nn

import gnomon as gn
from toys import TOYS


def grower(toy):
    return gn.Grower(TOYS[toy].model(), TOYS[toy].example())


def widths(toy, where, **amount):
    return {
        w.group: (w.old, w.asked, w.new) for w in grower(toy).plan(gn.Widen(where, **amount)).widths
    }


@pytest.mark.parametrize(
    ("amount", "expected"),
    [
        ({"by": 2}, (6, 12, 12)),
        ({"by": 1.5}, (6, 9, 9)),
        ({"by": 1.01}, (6, 7, 7)),
        ({"by": 1 + 1 / 6}, (6, 7, 7)),
        ({"to": 7}, (6, 7, 7)),
        ({"add": 5}, (6, 11, 11)),
    ],
)
def test_by_to_and_add_round_up(amount, expected):
    assert widths("mlp", "2", **amount) == {"2": expected}


@pytest.mark.parametrize(
    ("amount", "expected"),
    [({"by": 1.2}, (6, 8, 8)), ({"to": 7}, (6, 7, 8)), ({"add": 3}, (6, 9, 10))],
)
def test_widths_round_up_to_the_step(amount, expected):
    """Two convolution groups: channels come in twos."""
    assert widths("resnext", "3", **amount) == {"3": expected}
    model = TOYS["resnext"].model()
    gn.Grower(model, TOYS["resnext"].example()).grow(gn.Widen("3", **amount))
    assert model[3].weight.shape[0] == model[3].out_channels == expected[2]
    assert model[3].groups == 2


def test_growing_the_outer_factor_adds_convolution_groups():
    model = TOYS["resnext"].model()
    gn.Grower(model, TOYS["resnext"].example()).grow(gn.Widen("0[0]", add=3, rule=gn.NetMorph()))
    assert (model[3].groups, model[3].in_channels, model[3].out_channels) == (3, 9, 9)
    assert model[3].weight.shape == (9, 3, 3, 3)


def test_depthwise_groups_and_layer_attributes_follow():
    model = TOYS["mobile"].model()
    gn.Grower(model, TOYS["mobile"].example()).grow(gn.Widen("0", to=9))
    assert (model[3].groups, model[3].in_channels, model[1].num_features) == (9, 9, 9)
    assert "9, 9" in repr(model[3]) and "BatchNorm2d(9" in repr(model[1])


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("layers", {"layers.0.2", "layers.1.2"}),
        ("layers.*", {"layers.0.2", "layers.1.2"}),
        ("layers.0", {"layers.0.2"}),
        ("layers.?.2", {"layers.0.2", "layers.1.2"}),
        ("*", {"stem", "layers.0.2", "layers.1.2"}),
        (["stem", "layers.0"], {"stem", "layers.0.2"}),
        (["stem", "stem", "*"], {"stem", "layers.0.2", "layers.1.2"}),
    ],
)
def test_prefixes_globs_and_lists(where, expected):
    assert set(widths("densenet", where, by=2)) == expected


def test_a_prefix_leaves_out_what_is_also_written_elsewhere_and_says_so():
    plan = grower("resnet").plan(gn.Widen("3", by=2))
    assert [w.group for w in plan.widths] == ["3.conv1"]
    skipped = dict(plan.skipped)
    assert skipped.keys() == {"2.conv2"}
    assert skipped["2.conv2"].startswith("left out, name it: also written by '2.")
    both = grower("resnet").plan(gn.Widen(["3", "2.conv2"], by=2))
    assert {w.group for w in both.widths} == {"3.conv1", "2.conv2"} and not both.skipped


def test_of_factors_of_one_axis_a_prefix_takes_the_inner_one():
    plan = grower("resnext").plan(gn.Widen("*", by=2))
    assert {w.group for w in plan.widths} == {"0[1]", "3", "6"}
    assert "another factor" in dict(plan.skipped)["0[0]"]


def test_refused_groups_are_skipped_under_a_prefix_and_an_error_by_name():
    plan = grower("normed_mlp").plan(gn.Widen("*", by=2))
    assert [w.group for w in plan.widths] == ["wide"]
    assert "LayerNorm" in dict(plan.skipped)["enter"]
    assert "own output" in dict(plan.skipped)["head"]
    with pytest.raises(gn.CannotPreserve, match=r"'enter' .* LayerNorm .*Net2Net\(\)"):
        grower("normed_mlp").plan(gn.Widen("enter", by=2))
    with pytest.raises(gn.Unsupported, match="'head' cannot grow: it is the model's own output"):
        grower("normed_mlp").plan(gn.Widen("head", by=2))


def test_a_normed_group_grows_by_equal_copies_only():
    assert set(widths("normed_mlp", "enter", by=2, rule=gn.Net2Net())) == {"enter"}
    with pytest.raises(gn.CannotPreserve, match="multiple"):
        widths("normed_mlp", "enter", by=1.5, rule=gn.Net2Net())
    for rule in (gn.R2R(), gn.NetMorph(), gn.Hybrid()):
        with pytest.raises(gn.CannotPreserve, match="Net2Net"):
            widths("normed_mlp", "enter", by=2, rule=rule)


def test_zero_writers_are_refused_where_they_would_be_dead_or_not_stay_zero():
    rule = gn.NetMorph(zero="writers")
    for toy, group in (("conv_bn_relu", "0.0"), ("autoencoder", "3"), ("prelu", "0")):
        try:
            widths(toy, group, by=2, rule=rule)
        except gn.CannotPreserve as refusal:
            assert "zero='readers'" in str(refusal)
        else:
            assert toy == "prelu"  # alive through its slope
    assert widths("mlp", "0", by=2, rule=rule)


def test_nothing_left_to_grow_is_an_error_that_gives_the_reasons():
    with pytest.raises(gn.Unsupported, match=r"nothing under .*own output"):
        grower("mlp").plan(gn.Widen("4*", by=2))


def test_an_unknown_name_is_answered_with_those_that_exist():
    with pytest.raises(gn.NoSuchGroup, match=r"'encoder'.*Growable are: 0, 2"):
        grower("mlp").plan(gn.Widen("encoder", by=2))
    with pytest.raises(gn.NoSuchGroup, match="'decoder'"):
        grower("mlp").plan(gn.Widen(["0", "decoder"], by=2))


def test_a_width_that_is_reached_already_is_an_error():
    with pytest.raises(gn.Unsupported, match="'0' is 4 wide already; asked 3"):
        grower("mlp").plan(gn.Widen("0", to=3))
    with pytest.raises(gn.Unsupported, match="4 wide already"):
        grower("mlp").plan(gn.Widen("0", to=4))
    plan = grower("mlp").plan(gn.Widen("*", to=5))
    assert [w.group for w in plan.widths] == ["0"] and "6 wide already" in dict(plan.skipped)["2"]


@pytest.mark.parametrize(
    "wrong",
    [
        {}, {"by": 2, "to": 3}, {"by": 1}, {"by": 0.5}, {"by": -2}, {"by": float("inf")},
        {"by": float("nan")}, {"to": 0}, {"to": 2.5}, {"add": 0}, {"add": -1}, {"add": True},
        {"by": 2, "rule": "R2R"}, {"by": 2, "rule": gn.R2R},
    ],
)  # fmt: skip
def test_a_morph_that_makes_no_sense_is_a_value_error(wrong):
    with pytest.raises(ValueError):
        gn.Widen("0", **wrong)


@pytest.mark.parametrize("where", [[], (), [1], [None]])
def test_where_must_name_something(where):
    with pytest.raises(ValueError, match="where"):
        gn.Widen(where, by=2)


def test_axes_of_width_one_are_no_groups():
    model = nn.Sequential(nn.Linear(3, 1), nn.Tanh(), nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 2))
    g = gn.Grower(model, torch.randn(2, 3))
    assert [x.name for x in g.groups if x.verdict == "growable"] == ["2"]
    with pytest.raises(gn.GrowthError):
        g.plan(gn.Widen("0", by=2))


def test_weights_that_are_not_finite_are_refused():
    model = TOYS["mlp"].model()
    model[2].weight.data[0, 0] = float("nan")
    with pytest.raises(gn.Unsupported, match=r"2\.weight.*NaN"):
        gn.Grower(model, TOYS["mlp"].example()).plan(gn.Widen("2", by=2))


def test_a_model_without_any_group_says_so():
    g = gn.Grower(nn.Linear(3, 2), torch.randn(4, 3))
    with pytest.raises(gn.GrowthError):
        g.plan(gn.Widen("*", by=2))


class Bare(nn.Module):
    """Two bare parameters, and a module whose name looks like a glob."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleDict({"a[0]": nn.Sequential(nn.Linear(4, 6), nn.ReLU())})
        self.w1, self.w2 = nn.Parameter(torch.ones(5, 6)), nn.Parameter(torch.ones(2, 5))

    def forward(self, x):
        return self.parts["a[0]"](x) @ self.w1.T @ self.w2.T


@pytest.mark.parametrize(
    ("where", "groups"),
    [
        ("w*", ["w1"]),
        ("w1", ["w1"]),
        ("parts.a[0]", ["parts.a[0].0"]),
        ("parts", ["parts.a[0].0"]),
        ("*", ["parts.a[0].0", "w1"]),
    ],
)
def test_globs_match_bare_parameters_and_prefixes_that_look_like_globs(where, groups):
    plan = gn.Grower(Bare(), torch.ones(3, 4)).plan(gn.Widen(where, by=2))
    assert sorted(w.group for w in plan.widths) == groups


def test_a_prefix_grows_through_a_channel_shuffle_by_one_of_the_factors():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1),
        nn.ReLU(),
        nn.ChannelShuffle(2),
        nn.Conv2d(8, 8, 1, groups=2),
        nn.ReLU(),
        nn.Conv2d(8, 2, 1),
    ).double()
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    old = model(x).detach()
    plan = gn.Grower(model, x).plan(gn.Widen("*", by=2))
    stem = [w for w in plan.widths if w.group.startswith("0")]
    assert [(w.old, w.new) for w in stem] == [(8, 16)]
    gn.Grower(model, x).grow(plan)
    assert (model(x) - old).abs().max() <= 1e-12 * old.abs().max()


@pytest.mark.parametrize("rule", [gn.R2R(), gn.NetMorph(), gn.Net2Net(), gn.Hybrid()])
def test_a_mask_grows_by_copies_of_its_own_entries(rule):
    """Zeros would switch the new channels off for ever, and noise would be no mask."""
    model, x = TOYS["masked"].model(), TOYS["masked"].example()
    gn.Grower(model, x).grow(gn.Widen(["layers.0", "layers.1"], by=2, rule=rule))
    for layer in model.layers:
        assert set(layer.mask.flatten().tolist()) == {0.0, 1.0}
    assert bool(model.layers[0].mask[6:].any(1).all() and model.layers[2].mask[:, 5:].any())
