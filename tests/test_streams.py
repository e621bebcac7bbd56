"""Streams under norms grow by any number of channels, or say why not."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import gnomon as gn
import toy_streams as streams
from contracts import answers, change, tensors
from learning import reach_of_two_steps
from toys import shake

NORMS = {
    "LayerNorm": lambda width: nn.LayerNorm(width, eps=1e-3),
    "RMSNorm": lambda width: nn.RMSNorm(width, eps=1e-3),
    "RMSNorm without eps": nn.RMSNorm,
    "RMS by hand": streams.RootMeanSquare,
    "Gemma": streams.OnePlusGain,
    "centred by hand": streams.Centred,
    "by variance": streams.ByVariance,
}
RMS = ("RMSNorm", "RMSNorm without eps", "RMS by hand", "Gemma")
SILENT = gn.NetMorph(zero="writers")
BY_ANY_NUMBER = [SILENT, gn.Isometry()]
X = torch.randint(0, 9, (3, 4), generator=torch.Generator().manual_seed(2))
IMAGES = torch.randn(3, 2, 5, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def made(model, dtype=torch.float64):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return shake(model().to(dtype))


def language(norm, dtype=torch.float64, **options):
    return made(lambda: streams.Language(NORMS[norm], **options), dtype)


def moved(old, new, inputs=X):
    return max(change(answers(old, inputs, t), answers(new, inputs, t)) for t in (False, True))


def grow(model, rule=SILENT, inputs=X, where="words", **amount):
    amount = amount or {"by": 1.5}
    return gn.Grower(model, inputs).grow(gn.Widen(where, rule=rule, **amount))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("options", [{}, {"tied": True}, {"last": False}], ids=str)
def test_a_normed_stream_grows_by_any_number_twice(norm, options):
    old = language(norm, **options)
    new = copy.deepcopy(old)
    for step in ({"by": 1.5}, {"add": 1}):
        grow(new, **step)
        assert moved(old, new) <= 1e-12
    assert new.words.weight.shape == (9, 10)


@pytest.mark.parametrize("rule", BY_ANY_NUMBER, ids=str)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_narrow_dtypes(norm, dtype, limit, rule):
    if norm == "Gemma" and dtype == torch.bfloat16:
        pytest.skip("the toy's number 1.0 is not the point")
    old = language(norm, dtype)
    new = copy.deepcopy(old)
    grow(new, rule)
    assert moved(old, new) <= limit


@pytest.mark.parametrize("norm", ["RMSNorm", "RMS by hand", "Gemma"])
def test_behind_a_post_norm_of_squares_too(norm):
    old = language(norm, post=True)
    new = copy.deepcopy(old)
    grow(new)
    assert moved(old, new) <= 1e-12


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    norm=st.sampled_from(list(NORMS)),
    width=st.integers(2, 9),
    add=st.integers(1, 12),
    tied=st.booleans(),
)
def test_any_width_by_any_number(norm, width, add, tied):
    old = language(norm, width=width, tied=tied, depth=1)
    new = copy.deepcopy(old)
    grow(new, add=add)
    assert moved(old, new) <= 1e-12 and new.words.weight.shape == (9, width + add)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    norm=st.sampled_from(list(NORMS)), by=st.integers(2, 4), post=st.booleans(), tied=st.booleans()
)
def test_all_channels_copied_equally_often(norm, by, post, tied):
    old = language(norm, post=post, tied=tied, depth=1)
    new = copy.deepcopy(old)
    grow(new, gn.Net2Net(), by=by)
    assert moved(old, new) <= 1e-12


def test_gains_and_eps_are_rescaled_and_nothing_else_changes():
    old = language("Gemma")
    new = copy.deepcopy(old)
    plan = grow(new, by=1.5).plan
    s = math.sqrt(6 / 9)
    gains = {name for name in tensors(old) if "norm" in name}
    assert set(plan.changed) == gains
    for name, before in tensors(old).items():
        now = tensors(new)[name][tuple(slice(n) for n in before.shape)]
        wanted = s * (1 + before) - 1 if name in gains else before
        assert torch.allclose(now, wanted, rtol=0, atol=1e-15 if name in gains else 0), name
    assert new.blocks[0].norm1.variance_epsilon == 1e-3 * (6 / 9)
    text = str(plan)
    assert "blocks.0.norm1.variance_epsilon" in text and "0.001 -> 0.000666667" in text
    assert "blocks.0.norm1.weight" in text and "times 0.816497 -0.183503" in text


@pytest.mark.parametrize("norm", ["LayerNorm", "RMSNorm"])
def test_what_the_new_channels_hold(norm):
    new = language(norm, last=False)
    grow(new)
    written = new.words.weight[:, 6:]
    wanted = new.words.weight[:, :6].mean(1, keepdim=True) if norm == "LayerNorm" else 0 * written
    assert torch.allclose(written, wanted.expand_as(written))
    assert bool(new.blocks[0].up.weight[:, 6:].all()), "readers of zeros are free"
    head = new.head.weight[:, 6:]  # it reads the stream without a norm
    assert bool(head.all()) if norm == "RMSNorm" else not bool(head.any())
    if norm == "LayerNorm":
        assert not bool(new.blocks[0].norm1.bias[6:].any())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("options", [{}, {"tied": True}, {"last": False}], ids=str)
def test_all_new_parameters_learn_within_two_steps(norm, options):
    model = language(norm, **options)
    for block in model.blocks:
        block.dropout.p = 0.0
    plan = grow(model).plan
    reach = reach_of_two_steps(model, X)
    for edit in plan.edits:
        if ".k.bias" not in edit.name:
            new = reach[edit.name].clone()
            new[tuple(slice(n) for n in edit.shape)] = 0
            assert new.max() > 1e-12, edit.name


@pytest.mark.parametrize("norm", ["LayerNorm", "Gemma"])
@pytest.mark.parametrize("rule", [SILENT, gn.Net2Net(uneven=False)], ids=str)
@pytest.mark.parametrize("tied", [False, True])
def test_gradients_and_moments_of_gains_are_divided_by_what_the_gains_are_multiplied_by(
    norm, rule, tied
):
    """The carried gradient is the gradient that the grown model has."""
    model = language(norm, tied=tied).eval()
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    (model(X) ** 2).sum().backward()
    adam.step()
    adam.zero_grad()
    (model(X) ** 2).sum().backward()
    moments = {n: adam.state[p]["exp_avg_sq"].clone() for n, p in model.named_parameters()}
    gn.Grower(model, X, adam).grow(gn.Widen("words", by=2, rule=rule))
    carried = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    (model(X) ** 2).sum().backward()
    for name in ("norm.weight", "blocks.0.norm1.weight"):
        p = model.get_parameter(name)
        assert torch.allclose(carried[name][:6], p.grad[:6], rtol=1e-9, atol=1e-12), name
        if rule is SILENT:
            now = adam.state[p]["exp_avg_sq"][:6]
            assert torch.allclose(now, moments[name] * 2, rtol=1e-12)


class LiteralEps(streams.RootMeanSquare):
    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-4))


class SharedGain(streams.RootMeanSquare):
    def forward(self, x):
        return super().forward(x) + self.weight


class Peeking(streams.RootMeanSquare):
    """Something else sees the mean of squares too."""

    def forward(self, x):
        squares = x.pow(2).mean(-1, keepdim=True)
        return self.weight * (x * torch.rsqrt(squares + self.variance_epsilon)) + squares


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.randn(6, 1, 1))

    def forward(self, x):
        return self.scale * x


REFUSED = {
    "post-norm": (lambda: streams.Language(nn.LayerNorm, post=True), X, "does not keep channels"),
    "eps in the code": (lambda: streams.Language(LiteralEps), X, "stands in the code"),
    "gain in use": (lambda: streams.Language(SharedGain), X, "uses 'blocks.0.norm1.weight' too"),
    "not a norm": (lambda: streams.Language(Peeking), X, "Net2Net"),
    "depthwise": (
        lambda: streams.Images(nn.Conv2d(6, 6, 3, padding=1, groups=6)),
        IMAGES,
        "convolution in 'between' does not keep channels the mean",
    ),
    "layer scale": (lambda: streams.Images(Scaled()), IMAGES, "mul in 'between'"),
    "pooling": (lambda: streams.Images(nn.MaxPool2d(3, 1, 1)), IMAGES, "max_pool2d"),
    "batch norm": (lambda: streams.Images(nn.BatchNorm2d(6)), IMAGES, "batch_norm"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_breaks_the_rule_is_refused_with_its_reason(case):
    build, inputs, reason = REFUSED[case]
    model = made(build)
    before = {name: x.clone() for name, x in tensors(model).items()}
    with pytest.raises(gn.CannotPreserve, match=reason):
        grow(model, inputs=inputs, where="stem" if inputs is IMAGES else "words")
    assert all(torch.equal(x, tensors(model)[name]) for name, x in before.items())


@pytest.mark.parametrize("rule", BY_ANY_NUMBER, ids=str)
@pytest.mark.parametrize("between", [nn.Identity, lambda: nn.AvgPool2d(3, 1, 1)])
def test_images_under_a_norm_of_channels(between, rule):
    old = made(lambda: streams.Images(between()))
    new = copy.deepcopy(old)
    grow(new, rule, IMAGES, "stem", add=5)
    assert moved(old, new, IMAGES) <= 1e-12 and new.stem.weight.shape[0] == 11


@pytest.mark.parametrize("rule", [gn.R2R(), gn.Hybrid(), gn.NetMorph(), gn.Net2Net()], ids=str)
def test_other_rules_say_which_one_can(rule):
    advice = "grow to a multiple" if isinstance(rule, gn.Net2Net) else "NetMorph.zero='writers'"
    with pytest.raises(gn.CannotPreserve, match=advice):
        grow(language("LayerNorm"), rule)


@pytest.mark.parametrize("rule", [gn.R2R(), gn.Hybrid(), gn.RandPad()], ids=str)
def test_a_tied_table_is_refused_with_advice(rule):
    with pytest.raises(gn.GrowthError, match=r"untie it|NetMorph"):
        grow(language("RMSNorm", tied=True), rule)


def test_copies_of_a_tied_table_need_a_norm_before_the_head():
    with pytest.raises(gn.CannotPreserve, match="untie it"):
        grow(language("RMSNorm", tied=True, last=False), gn.Net2Net(), by=2)


@pytest.mark.parametrize("norm", ["LayerNorm", "Gemma"])
def test_a_tied_head_may_have_a_bias(norm):
    old = language(norm, tied=True, post=norm == "LayerNorm")
    old.head.bias = nn.Parameter(torch.randn(9, dtype=torch.float64))
    new = copy.deepcopy(old)
    grow(new, gn.Net2Net(), by=3)
    assert moved(old, new) <= 1e-12


def test_a_norm_that_others_see_cannot_take_the_shares():
    class Seen(streams.Language):
        def forward(self, tokens):
            y = self.norm(self.blocks(self.words(tokens) + self.positions))
            return self.head(y), self.blocks[0].up(y)

    model = made(lambda: Seen(nn.LayerNorm, tied=True))
    with pytest.raises(gn.CannotPreserve, match="addmm also uses what 'norm' gives"):
        grow(model, gn.Net2Net(), by=2)
    old = copy.deepcopy(model)
    grow(model, by=1.5)
    assert moved(old, model) <= 1e-12


def test_a_plan_on_meta_fits_the_real_model():
    with torch.device("meta"):
        empty = streams.Language(nn.LayerNorm)
    plan = gn.Grower(empty, X.to("meta")).plan(gn.Widen("words", by=1.5, rule=SILENT))
    real = made(lambda: streams.Language(nn.LayerNorm), torch.float32)
    assert gn.Grower(real, X).grow(plan).largest_change <= 1e-5


def test_a_plan_goes_to_a_copy_and_a_file_comes_back(tmp_path):
    model = language("Gemma", tied=True)
    twin = copy.deepcopy(model)
    grower = gn.Grower(model, X)
    plan = gn.Plan.from_json(grower.plan(gn.Widen("words", by=1.5, rule=SILENT)).to_json())
    grower.grow(plan)
    gn.Grower(twin, X).grow(plan)
    assert all(torch.equal(x, tensors(twin)[name]) for name, x in tensors(model).items())
    gn.save(grower, tmp_path / "grown.safetensors")
    again = gn.load(tmp_path / "grown.safetensors", lambda: language("Gemma", tied=True), X)
    assert again.norm.variance_epsilon == model.norm.variance_epsilon
    assert change(answers(model, X, False), answers(again, X, False)) == 0


def test_segments_of_one_norm_may_grow_apart_under_mean_squares():
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(3, 4), nn.Linear(3, 5)
            self.norm, self.head = nn.RMSNorm(9, eps=1e-3), nn.Linear(9, 2)

        def forward(self, x):
            return self.head(self.norm(torch.cat([self.left(x), self.right(x)], -1)))

    old, x = made(Joined), torch.randn(5, 3, dtype=torch.float64)
    new = copy.deepcopy(old)
    grow(new, inputs=x, where="left", add=3)
    assert moved(old, new, x) <= 1e-12 and new.norm.eps == 1e-3 * (9 / 12)
    with pytest.raises(gn.CannotPreserve, match="name them too"):
        grow(new, gn.Net2Net(), x, "left", by=2)


@pytest.mark.parametrize(("where", "by"), [("0[0]", 1.5), ("0[1]", 2)])
def test_groupnorm_gets_whole_groups_or_copies_inside_them(where, by):
    old = made(lambda: nn.Sequential(nn.Conv2d(2, 6, 1), nn.GroupNorm(3, 6), nn.ReLU(),
                                     nn.Conv2d(6, 2, 1)))  # fmt: skip
    new = copy.deepcopy(old)
    rule = gn.R2R() if by < 2 else gn.Net2Net()
    grow(new, rule, IMAGES, where, by=by)
    assert moved(old, new, IMAGES) <= 1e-12
    assert new[1].num_groups == (5 if by < 2 else 3)


def test_a_group_norm_says_what_it_takes():
    model = made(lambda: nn.Sequential(nn.Conv2d(2, 6, 1), nn.GroupNorm(3, 6), nn.Conv2d(6, 2, 1)))
    with pytest.raises(gn.CannotPreserve, match="GroupNorm"):
        grow(model, SILENT, IMAGES, "0[1]", by=1.5)
