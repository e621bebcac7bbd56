"""One layer as several side by side: shares, mixed kernels, Inception, zero paths; then on."""

import copy

import pytest
import torch
from torch import nn

import gnomon as gn
from contracts import answers, change, growable, tensors
from descent import OPTIMIZERS, RATE
from factoring import NOT_ONCE, dead, layers
from gnomon.activations import PActivation
from gnomon.blocks import Paths
from gnomon.planning.plan import Plan
from toys import TOYS

X = torch.randn(2, 4, 7, 8, generator=torch.Generator().manual_seed(0)).double()


def small(**options):
    options = {"padding": 1} | options
    conv = nn.Conv2d(4, 6, 3, **options)
    return nn.Sequential(conv, nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 3, 1)).double()


def assert_kept(old, new, x=X, limit=1e-12):
    for training in (False, True):
        assert change(answers(old, x, training), answers(new, x, training)) <= limit


def branched(model, morph, x=X):
    old = copy.deepcopy(model)
    receipt = gn.Grower(model, x).grow(morph)
    assert receipt.preserves
    assert receipt.parameters[1] == sum(p.numel() for p in model.parameters())
    assert_kept(old, model, x)
    return model


MIXED = [(3, 3), (1, 3, 5), (5, 3), ((1, 3), (3, 1), 3), (2, 4), (3, 6)]


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("paths", MIXED, ids=str)
def test_sums_of_any_kernels_are_the_layer(paths, mode):
    for stride, dilation, groups in (1, 2, 1), (2, 1, 2):
        options = {"stride": stride, "dilation": dilation, "groups": groups, "padding": dilation}
        branched(small(padding_mode=mode, **options), gn.Branch("0", paths))


@pytest.mark.parametrize("paths", [3, (1, 3, 3)])
def test_noise_of_zero_gives_equal_shares_and_noise_parts_them(paths):
    even = branched(small(), gn.Branch("0", paths, noise=0))[0].paths
    noisy = branched(small(), gn.Branch("0", paths))[0].paths
    assert torch.allclose(even[1].weight, even[2].weight) == (paths == 3)
    assert not torch.allclose(noisy[1].weight, noisy[2].weight)
    if paths == 3:
        torch.manual_seed(0)
        old = small()[0].weight
        torch.manual_seed(0)
        shares = branched(small(), gn.Branch("0", 3, noise=0))[0].paths
        assert all(torch.allclose(path.weight, old / 3) for path in shares)


@pytest.mark.parametrize(
    ("paths", "widths"),
    [((1, 3, 5), (2, 3, 6)), (3, (3, 2, 2)), ((3, 1), (7, 1)), ((2, 4), (3, 8))],
)
def test_inception_concatenates_and_mixes(paths, widths):
    for mode, stride in ("zeros", 1), ("circular", 2), ("reflect", 1):
        morph = gn.Branch("0", paths, widths=widths)
        model = branched(small(padding_mode=mode, stride=stride), morph)
        assert model[0].mix.in_channels == sum(widths) and model[0].paths.join == "cat"


def test_linear_layers_branch_on_vectors_and_sequences():
    for x in torch.randn(5, 4).double(), torch.randn(2, 3, 4).double():
        for morph in gn.Branch("0", 3), gn.Branch("0", 2, widths=(5, 4)), gn.Branch("0", 1, zero=4):
            branched(nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).double(), morph, x)


@pytest.mark.parametrize("name", ["SGD", "AdamW", "Adagrad"])
def test_beside_a_zero_path_the_layer_keeps_its_parameters_and_their_state(name):
    model = small()
    optimizer = OPTIMIZERS[name](model.parameters())
    step(model, optimizer)
    twin, other = copied(model, optimizer, name)
    weight, bias = model[0].weight, model[0].bias
    state = optimizer.state[weight]
    receipt = gn.Grower(model, X, optimizer).grow(gn.Branch("0", paths=1, zero=4))
    assert model[0].paths[0].weight is weight and model[0].paths[0].bias is bias
    assert optimizer.state[weight] is state
    assert receipt.renamed == {"0.weight": "0.paths.0.weight", "0.bias": "0.paths.0.bias"}
    assert "0.weight" not in str(optimizer.param_groups[0].get("param_names"))
    assert_kept(twin, model)
    step(model, optimizer), step(twin, other)
    assert torch.allclose(weight, twin[0].weight, rtol=0, atol=1e-13)


def step(model, optimizer):
    optimizer.zero_grad()
    model(X).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def copied(model, optimizer, name):
    twin = copy.deepcopy(model)
    other = OPTIMIZERS[name](twin.parameters())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return twin, other


@pytest.mark.parametrize("name", ["SGD", "AdamW", "AMSGrad", "Adagrad"])
def test_new_paths_join_the_layers_group_and_are_not_kicked(name):
    model = small()
    optimizer = OPTIMIZERS[name](model.parameters())
    for _ in range(5):
        step(model, optimizer)
    old = [model[0].weight, model[0].bias]
    gn.Grower(model, X, optimizer).grow(gn.Branch("0", (1, 3, 3)))
    assert not any(p in optimizer.state for p in old)
    held = {id(p) for p in optimizer.param_groups[0]["params"]}
    assert held == {id(p) for p in model.parameters()}
    for i in range(4):
        before = [p.detach().clone() for p in model[0].parameters()]
        step(model, optimizer)
        moved = [(p - q).abs().max() for p, q in zip(model[0].parameters(), before, strict=True)]
        assert min(moved) > 0 and (name == "SGD" or max(moved) <= 1.2 * RATE), i


# Factoring goes through all toys; these have one of each kind of layer.
SOME = (
    "mlp densenet conv_flatten_linear resnext conv1d conv3d weight_normed attention splits".split()
)


@pytest.mark.parametrize("toy", SOME)
def test_every_layer_of_a_toy_branches(toy, tmp_path):
    old, inputs = TOYS[toy].model(), TOYS[toy].example()
    new = copy.deepcopy(old)
    grower = gn.Grower(new, inputs)
    for i, path in enumerate(p for p in layers(old) if p not in NOT_ONCE.get(toy, ())):
        receipt = grower.grow(gn.Branch(path, 2 + i % 2), seed=i)
        assert receipt.preserves
    assert_kept(old, new, inputs, 1e-11)
    fresh = set(dict(new.named_parameters())) - set(dict(old.named_parameters()))
    assert dead(new, inputs, fresh, 1) == set() and fresh
    gn.save(grower, tmp_path / "b.safetensors")
    again = gn.load(tmp_path / "b.safetensors", TOYS[toy].model)
    assert repr(again) == repr(new)
    assert all(torch.equal(x, tensors(again)[n]) for n, x in tensors(new).items())


def test_paths_are_factored_enlarged_and_widened_afterwards(tmp_path):
    torch.manual_seed(0)
    model = small()
    old, start = copy.deepcopy(model), copy.deepcopy(model)
    grower = gn.Grower(model, X)
    grower.grow(gn.Branch("0", (3, 3, 1)))
    grower.grow(gn.Factor("0.paths.0", mid=12, activation=nn.GELU()))
    grower.grow(gn.Factor("0.paths.2", mid=8, kernels=(1, 1), activation=nn.Tanh(), norm=True))
    grower.grow(gn.Enlarge("0.paths.1", kernel=4))
    grower.grow(gn.Factor("0.paths.1", mid=13, kernels=(4, 2)))
    grower.grow(gn.Branch("3", (1, 3), widths=(2, 4)))
    grower.grow(gn.Branch("3.mix", 1, zero=4))
    grower.grow(gn.Widen(growable(grower), by=1.5))
    assert_kept(old, model, limit=1e-11)
    assert isinstance(model[0], Paths) and isinstance(model[0].paths[2].activation, PActivation)
    fresh = {n for n, _ in model.named_parameters() if not n.startswith("1.") and ".norm." not in n}
    assert dead(model, X, fresh, 2) == set()
    gn.save(grower, tmp_path / "b.safetensors")
    again = gn.load(tmp_path / "b.safetensors", lambda: copy.deepcopy(start), X)
    assert change(answers(model, X, True), answers(again, X, True)) == 0
    twin = copy.deepcopy(start)
    other = gn.Grower(twin, X)
    for plan in grower.history:
        other.grow(Plan.from_json(plan.to_json()))
    assert all(torch.equal(x, tensors(twin)[n]) for n, x in tensors(model).items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_other_dtypes_within_their_rounding(dtype):
    for morph in gn.Branch("0", (1, 3, 5)), gn.Branch("0", 2, widths=(6, 3)):
        model, x = small().to(dtype), X.to(dtype)
        old = copy.deepcopy(model)
        gn.Grower(model, x).grow(morph)
        limit = 1e-5 if dtype == torch.float32 else 2.0**-5
        assert change(answers(old, x, False), answers(model, x, False)) <= limit
