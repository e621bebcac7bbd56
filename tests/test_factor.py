"""One layer as two or more: kernels, borders, strides, groups, norms, and what is wrong where."""

import copy
import itertools

import pytest
import torch
from torch import nn

import gnomon as gn
from contracts import answers, change
from gnomon.activations import PActivation

X = torch.randn(2, 4, 9, 8, generator=torch.Generator().manual_seed(0)).double()


def grown(layer, morph, x=X, behind=()):
    """A layer at path '0' before and after, with a BatchNorm behind it."""
    model = nn.Sequential(layer, *behind).double()
    old = copy.deepcopy(model)
    return old, model, gn.Grower(model, x).grow(morph)


def assert_kept(layer, morph, x=X, limit=1e-11):
    """In eval and in train mode, with a norm behind that sees every difference."""
    norm = nn.BatchNorm2d if x.dim() == 4 else nn.BatchNorm1d
    out = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    old, new, receipt = grown(layer, morph, x, (norm(out),))
    assert receipt.preserves and receipt.plan.claim == "exact"
    for training in (False, True):
        assert change(answers(old, x, training), answers(new, x, training)) <= limit, morph
    return new


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize(
    ("own", "kernels"),
    [(3, (3, 3)), (2, (4, 3)), ((1, 4), ((2, 3), (1, 2))), (1, (2, 3)), (4, (1, 4))],
)
def test_kernels_of_any_parity_stride_dilation_groups_and_mode(own, kernels, mode):
    for padding, stride, dilation, groups in (0, 1, 2, 1), (1, 2, 1, 2), (1, 3, 2, 2):
        conv = nn.Conv2d(
            4, 6, own, stride, padding, dilation=dilation, padding_mode=mode, groups=groups
        )
        assert_kept(conv, gn.Factor("0", mid=24, kernels=kernels, activation=nn.ReLU()))


@pytest.mark.parametrize("widths", [(8, 4), (24, 16)])
@pytest.mark.parametrize("kernels", [(3, 3, 1), (3, 2, 2), (2, 2, 4), (1, 3, 1), (4, 3, 2)])
def test_chains_lie_where_their_weights_are(kernels, widths):
    """G is not always in the middle of the composed kernel: 3x3 as 3x3, 3x3, 1x1 once was not."""
    for activation in (nn.Tanh(), nn.LeakyReLU(0.25)):  # as pairs: kappa = 1.25, in every gap
        morph = gn.Factor("0", mid=widths, kernels=kernels, activation=activation)
        assert_kept(nn.Conv2d(4, 4, 3, padding=1), morph)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_transposed_convolutions_split_off_a_layer_of_1x1(stride):
    for own, kernels in itertools.product((2, 3), ("front", "back")):
        pair = ((1, own), (own, 1))[kernels == "back"]
        layer = nn.ConvTranspose2d(4, 6, own, stride, padding=1, dilation=stride)
        assert_kept(layer, gn.Factor("0", mid=12, kernels=pair, activation=nn.GELU()))


def test_linear_layers_on_vectors_and_on_sequences():
    for x in torch.randn(5, 4).double(), torch.randn(2, 3, 4).double(), torch.randn(4).double():
        for activation in None, nn.Softplus(), nn.Tanh():
            _, new, receipt = grown(nn.Linear(4, 3), gn.Factor("0", activation=activation), x)
            assert receipt.largest_change <= 1e-12 and len(new[0]) == 2 + (activation is not None)


def test_pairs_where_the_activation_and_the_width_allow_it_else_a_gate():
    def gate(**options):
        new = grown(nn.Conv2d(4, 3, 3), gn.Factor("0", **options))[1]
        return isinstance(new[0].activation, PActivation)

    assert not gate(mid=6, activation=nn.ReLU()) and not gate(activation=nn.Hardswish())
    assert gate(mid=5, activation=nn.ReLU()) and gate(mid=7, activation=nn.ReLU())
    assert gate(mid=6, activation=nn.Tanh()) and gate(mid=6, activation=nn.ReLU(), norm=True)


@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect"])
@pytest.mark.parametrize("activation", [None, nn.ReLU(), nn.Tanh()], ids=str)
def test_the_border_is_exact_with_maps_of_one_size_if_asked_for(activation, mode):
    layer = nn.Conv2d(4, 3, 3, padding=1, padding_mode=mode)
    same = gn.Factor("0", mid=18, kernels=(3, 3), activation=activation, border="same")
    new = assert_kept(layer, same)
    assert new[0].layer1.padding == new[0].layer2.padding == (1, 1)
    assert float((new[0].layer2.weight != 0).double().mean()) > 0.6


def test_a_bias_between_learns_without_harm_at_the_border():
    """With all padding in front, a hidden bias is seen everywhere alike."""
    layer = nn.Conv2d(4, 3, 3, padding=1)
    old, new, _ = grown(layer, gn.Factor("0", mid=12, kernels=(3, 3)))
    with torch.no_grad():
        new[0].layer1.bias.fill_(1.0)
    moved = new(X) - old(X)
    assert (moved - moved[:1, :, :1, :1]).abs().max() <= 1e-12 < moved.abs().max()


@pytest.mark.parametrize(
    ("own", "padding", "kernels", "frame"),
    [(3, 1, (3, 3), (1, 1)), (5, 2, (5, 3), (1, 1)), (5, 2, (3, 5), (2, 2))],
)
def test_interior_is_wrong_in_the_frame_that_it_names_and_nowhere_else(
    own, padding, kernels, frame
):
    morph = gn.Factor("0", mid=40, kernels=kernels, border="interior")
    for size in (9, 12):
        x = torch.randn(2, 4, size, size + 1).double()
        old, new, receipt = grown(nn.Conv2d(4, 3, own, padding=padding), morph, x)
        assert receipt.plan.claim == "interior" and not receipt.preserves
        assert f"a frame of {frame[0]} x {frame[1]} outputs is wrong" in str(receipt.plan)
        assert "except in a frame" in str(receipt.plan)
        wrong = (old(x) - new(x)).abs().amax((0, 1))
        inside = wrong[frame[0] : -frame[0], frame[1] : -frame[1]]
        assert inside.max() <= 1e-12
        rim = wrong[0].max(), wrong[-1].max(), wrong[:, 0].max(), wrong[:, -1].max()
        assert min(rim) > 1e-3
        edge = frame[0] - 1
        assert wrong[edge, edge : -edge or None].max() > 1e-3  # not narrower than said


def test_interior_is_never_taken_by_itself_and_a_row_of_three_adds_up():
    layer = nn.Conv2d(4, 3, 3, padding=1)
    assert gn.Factor("0", mid=12, kernels=(3, 3)).border == "exact"
    morph = gn.Factor("0", mid=(30, 30), kernels=(3, 3, 3), border="interior")
    old, new, receipt = grown(layer, morph)
    assert "2 x 2 outputs" in str(receipt.plan)
    wrong = (old(X) - new(X)).abs().amax((0, 1))
    assert wrong[2:-2, 2:-2].max() <= 1e-12 < 1e-3 < wrong[1].max()


def test_interior_says_when_nothing_is_lost():
    """What lies outside the hidden map is zero here: the layer itself looks at padding there."""
    layer = nn.Conv2d(4, 3, 1, padding=1, bias=False)
    old, new, receipt = grown(layer, gn.Factor("0", mid=40, kernels=(3, 3), border="interior"))
    assert "a frame of 0 x 0" in str(receipt.plan) and not receipt.preserves
    assert change(answers(old, X, False), answers(new, X, False)) <= 1e-12


def test_norms_between_are_passed_and_running_statistics_get_ready():
    layer, tanh = nn.Conv2d(4, 3, 3, padding=1), nn.Tanh()
    new = assert_kept(layer, gn.Factor("0", mid=12, activation=tanh, norm=True))
    before = new[0].norm.norm.running_mean.clone()
    new.train()(X)
    assert not torch.equal(before, new[0].norm.norm.running_mean)
    assert "norm=True" in str(gn.Factor("0", norm=True))


def test_a_factored_layer_is_factored_again_and_its_halves_enlarged():
    old, new, _ = grown(nn.Conv2d(4, 3, 3, padding=1), gn.Factor("0", mid=12, kernels=(3, 3)))
    grower = gn.Grower(new, X)
    grower.grow(gn.Enlarge("0.layer1", kernel=4))  # uneven padding
    grower.grow(gn.Factor("0.layer1", mid=24, activation=nn.SiLU()))
    grower.grow(gn.Enlarge("0.layer2", kernel=5))
    grower.grow(gn.Factor("0.layer2", mid=(12, 9), kernels=(5, 1, 2), activation=nn.Tanh()))
    grower.grow(gn.Widen(["0.layer1.layer1.1", "0.layer2.layer2"], by=2))
    assert change(answers(old, X, False), answers(new, X, False)) <= 1e-11
    assert [r.morph.partition("(")[0] for r in grower.history].count("Factor") == 2


def test_a_seed_gives_the_same_weights_and_the_global_generators_are_left_alone():
    state, weights = torch.get_rng_state(), []
    model = nn.Sequential(nn.Conv2d(4, 3, 3)).double()
    for seed in (0, 0, 1):
        torch.manual_seed(7)
        twin, state = copy.deepcopy(model), torch.get_rng_state()
        grower = gn.Grower(twin, X)
        grower.plan(gn.Factor("0", activation=nn.Tanh(), norm=True))
        assert torch.equal(state, torch.get_rng_state())
        grower.grow(gn.Factor("0", activation=nn.Tanh(), norm=True), seed=seed)
        assert torch.equal(state, torch.get_rng_state())
        weights.append(twin[0].layer1.weight)
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_on_meta_it_can_be_planned():
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6))
        x = torch.empty(3, 4, 8, 8)
    real = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6))
    for morph in (
        gn.Factor("0", activation=nn.ReLU()),
        gn.Branch("0"),
        gn.Branch("0", (1, 3), 1, (6, 6)),
    ):
        planned = gn.Grower(model, x).plan(morph)
        plan = gn.Grower(real, torch.randn(3, 4, 8, 8)).plan(morph)
        assert (planned.parameters, planned.flops) == (plan.parameters, plan.flops)


def test_flops_are_per_example_also_for_a_layer_that_sees_more_rows():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            return self.fc(x.flatten(0, 1))

    x = torch.randn(2, 5, 4)
    plan = gn.Grower(Tokens(), x).plan(gn.Factor("fc", mid=8))
    assert plan.flops == (2 * 5 * 4 * 4, 2 * 5 * (4 * 8 + 8 * 4))


def test_a_frozen_layer_stays_frozen():
    layer = nn.Linear(4, 3).requires_grad_(False)
    for morph in gn.Factor("0", mid=8, activation=nn.Tanh()), gn.Branch("0"):
        _, new, _ = grown(copy.deepcopy(layer), morph, X[0, :, 0].T, (nn.Linear(3, 2),))
        assert [p.requires_grad for p in new.parameters()][-2:] == [True, True]
        assert not any(p.requires_grad for p in new[0].parameters())
