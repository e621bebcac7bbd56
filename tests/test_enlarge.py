"""Larger kernels: every parity, stride, dilation and padding, bit for bit on whole numbers."""

import copy
import itertools

import pytest
import torch
from torch import nn

import gnomon as gn
from gnomon.adding.padding import padding_of

X = torch.randint(-4, 5, (2, 4, 9, 8), generator=torch.Generator().manual_seed(0)).double()


def whole(layer):
    """A layer whose weights are whole numbers: sums of them are exact in any order."""
    draw = torch.Generator().manual_seed(1)
    layer = layer.double()
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randint(-3, 4, p.shape, generator=draw))
    return layer


def enlarged(layer, x, morph):
    """The model before and after, in a Sequential."""
    model = nn.Sequential(whole(layer))
    old = copy.deepcopy(model)
    receipt = gn.Grower(model, x).grow(morph)
    assert receipt.preserves
    return old, model


def assert_same(layer, morph, x=X):
    old, new = enlarged(layer, x, morph)
    assert torch.equal(old(x), new(x)), morph
    assert tuple(new[0].weight.shape[2:]) == new[0].kernel_size
    new(x).square().sum().backward()
    assert new[0].weight.grad.abs().max() > 0
    assert torch.equal(copy.deepcopy(new)(x), new(x))


SIZES = [(1, 3), (3, 5), (3, 4), (2, 3), (2, 5), (4, 4 + 1)]


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize(("old", "new"), SIZES)
def test_any_parity_stride_dilation_and_mode(old, new, mode):
    for padding, stride, dilation in itertools.product((0, 1), (1, 2), (1, 2)):
        layer = nn.Conv2d(
            4, 6, old, stride, padding, dilation=dilation, padding_mode=mode, groups=2
        )
        side = ("both", "left", "right")[(padding + stride + dilation) % 3]
        assert_same(layer, gn.Enlarge("0", kernel=new, side=side))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize(("old", "new"), SIZES)
def test_padding_same_stays_where_it_can(old, new, dilation):
    layer = nn.Conv2d(4, 6, old, padding="same", dilation=dilation)
    assert_same(layer, gn.Enlarge("0", kernel=new))
    shift = dilation * (new - 1) // 2 - dilation * (old - 1) // 2  # torch pads half, rounded down
    assert (layer.padding == "same") == (shift % dilation == 0)


@pytest.mark.parametrize(("old", "new"), [(3, 5), (2, 4), (1, 3), (4, 6)])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_transposed_convolutions_by_even_numbers(old, new, stride):
    assert_same(nn.ConvTranspose2d(4, 6, old, stride, dilation=2), gn.Enlarge("0", kernel=new))


def test_transposed_convolutions_by_odd_numbers_where_an_output_padding_exists():
    layer = nn.ConvTranspose2d(4, 6, 3, stride=2)
    assert_same(layer, gn.Enlarge("0", kernel=4))
    assert layer.output_padding == (1, 1) and not list(layer.children())


@pytest.mark.parametrize(("old", "new"), [(3, 4), (2, 5), (1, (2, 4))])
@pytest.mark.parametrize("dilation", [1, 2])
def test_what_a_transposed_convolution_makes_too_much_is_cut_off(old, new, dilation):
    layer = nn.ConvTranspose2d(4, 6, old, dilation=dilation)
    assert_same(layer, gn.Enlarge("0", kernel=new))
    assert layer.output_padding == (0, 0) and len(list(layer.deeper)) == 1
    assert_same(nn.ConvTranspose1d(4, 6, 2), gn.Enlarge("0", kernel=3), X[:, :, 0])
    assert_same(nn.ConvTranspose2d(4, 6, 3), gn.Enlarge("0", kernel=4, side="right"))
    with pytest.raises(gn.CannotPreserve, match="grow on both sides"):
        enlarged(nn.ConvTranspose2d(4, 6, 3), X, gn.Enlarge("0", kernel=4, side="left"))


def test_a_cut_layer_can_be_saved_and_grows_on(tmp_path):
    def build():
        return nn.Sequential(nn.ConvTranspose2d(4, 6, 3), nn.ReLU(), nn.Conv2d(6, 3, 3))

    torch.manual_seed(0)
    model, x = build(), X.float()
    before, grower = model(x).detach(), gn.Grower(model, x)
    for morph in (gn.Enlarge("0", kernel=4), gn.Widen("0", by=2), gn.Enlarge("0", kernel=6)):
        grower.grow(morph)
    assert torch.allclose(model(x), before, atol=1e-5)
    gn.save(grower, tmp_path / "m.safetensors")
    assert torch.equal(gn.load(tmp_path / "m.safetensors", build, x)(x), model(x))
    assert "cut off" in refusal(model, gn.Enlarge("0", kernel=7), x.double())


def test_one_and_three_dimensions_rectangles_and_depthwise():
    assert_same(nn.Conv1d(4, 6, 3), gn.Enlarge("0", kernel=5), X[:, :, 0])
    volume = X[:, :, :, None].expand(2, 4, 9, 5, 8)
    assert_same(nn.Conv3d(4, 6, (1, 3, 2)), gn.Enlarge("0", kernel=(3, 3, 5)), volume)
    assert_same(nn.Conv2d(4, 4, (1, 3), groups=4), gn.Enlarge("0", kernel=(3, 4)))


def test_a_causal_convolution_stays_causal():
    layer = nn.Sequential(nn.ConstantPad1d((2, 0), 0.0), whole(nn.Conv1d(4, 6, 3)))
    x, old = X[:, :, 0], copy.deepcopy(layer)
    gn.Grower(layer, x).grow(gn.Enlarge("1", kernel=6, side="left"))
    assert torch.equal(layer(x), old(x))
    nn.init.normal_(layer[1].weight)  # the new taps learn something
    later = x.clone()
    later[:, :, 5:] = 7
    assert torch.equal(layer(x)[:, :, :5], layer(later)[:, :, :5])


@pytest.mark.parametrize(("dilation", "to"), [(2, 1), (4, 2), (6, 2), (3, 1)])
def test_a_smaller_dilation_fills_the_gaps(dilation, to):
    layer = nn.Conv1d(4, 6, 3, dilation=dilation, padding=dilation)
    assert_same(layer, gn.Enlarge("0", dilation=to), X.flatten(2))
    assert layer.kernel_size == (2 * dilation // to + 1,) and layer.dilation == (to,)


def test_twice_then_wider_and_through_a_file(tmp_path):
    def build():
        return nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 3, 3))

    torch.manual_seed(0)
    model, x = build(), X.float()
    before, grower = model(x).detach(), gn.Grower(model, x)
    for morph in (gn.Enlarge("0", kernel=4), gn.Enlarge("0", kernel=7), gn.Widen("0", by=2)):
        grower.grow(morph)
    assert torch.allclose(model(x), before, atol=1e-5)
    gn.save(grower, tmp_path / "m.safetensors")
    again = gn.load(tmp_path / "m.safetensors", build, x)
    assert torch.equal(again(x), model(x)) and repr(again) == repr(model)
    exported = torch.export.export(model, (x,)).module()
    assert torch.allclose(exported(x), model(x), atol=1e-6)


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.Adagrad])
def test_old_taps_step_as_before_and_new_ones_are_neither_frozen_nor_kicked(optimizer):
    model = nn.Sequential(whole(nn.Conv2d(4, 6, 3, padding=1)))
    twin = copy.deepcopy(model)
    steps = [optimizer(m.parameters(), lr=0.01) for m in (model, twin)]

    def step(m, opt):
        opt.zero_grad()
        (m(X) - 1).square().sum().backward()
        opt.step()

    for m, opt in zip((model, twin), steps, strict=True):
        step(m, opt)
        opt.zero_grad()
    gn.Grower(model, X, steps[0]).grow(gn.Enlarge("0", kernel=5))
    for m, opt in zip((model, twin), steps, strict=True):
        step(m, opt)
    old, new = twin[0].weight, model[0].weight
    assert (new[:, :, 1:-1, 1:-1] - old).abs().max() < 1e-12
    rim = new.detach().clone()
    rim[:, :, 1:-1, 1:-1] = 0
    assert 0 < rim.abs().max() <= 1.2 * 0.01


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        return self.conv(self.conv(x))


def refusal(model, morph, x=X):
    model = model.double()
    before = copy.deepcopy(model)
    with pytest.raises(gn.GrowthError) as caught:
        gn.Grower(model, x).grow(morph)
    assert repr(model) == repr(before)
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), before.state_dict().values(), strict=True)
    )
    return str(caught.value)


def test_what_cannot_grow_says_why():
    conv = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1))
    assert "is 3 wide" in refusal(conv, gn.Enlarge("0", kernel=2))
    assert "already" in refusal(conv, gn.Enlarge("0", kernel=3))
    assert "2 dimensions" in refusal(conv, gn.Enlarge("0", kernel=(5, 5, 5)))
    assert "no multiple" in refusal(conv, gn.Enlarge("0", dilation=2))
    assert "no module is called" in refusal(conv, gn.Enlarge("1", kernel=5))
    assert "not a convolution" in refusal(nn.Sequential(nn.ReLU()), gn.Enlarge("0", kernel=5))
    assert "2 times" in refusal(Twice(), gn.Enlarge("conv", kernel=5))
    shared = nn.Conv2d(4, 4, 3, padding=1)
    assert "shared" in refusal(nn.Sequential(shared, shared), gn.Enlarge("0", kernel=5))
    reflect = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"))
    assert "smaller kernel" in refusal(reflect, gn.Enlarge("0", kernel=17))
    tied = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3))
    tied[1].weight = tied[0].weight
    assert "tied" in refusal(tied, gn.Enlarge("0", kernel=5))
    normed = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3)))
    with pytest.raises(gn.Unsupported, match="computed"):
        gn.Grower(normed.double(), X).grow(gn.Enlarge("0", kernel=5))


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"kernel": 3, "dilation": 1},
        {"kernel": 0},
        {"kernel": (3, -1)},
        {"kernel": 2.5},
        {"kernel": True},
        {"kernel": ()},
        {"kernel": 5, "side": "top"},
    ],
)
def test_a_morph_that_makes_no_sense_is_a_value_error(arguments):
    with pytest.raises(ValueError):
        gn.Enlarge("0", **arguments)


def test_padding_is_read_from_what_the_layer_keeps():
    layer = nn.Conv2d(1, 1, (3, 2), padding="same")
    assert padding_of(layer).before == (1, 0) and padding_of(layer).after == (1, 1)
    assert padding_of(nn.Conv1d(1, 1, 3, padding="valid")).before == (0,)
