"""The networks of "Network Morphism" (Wei et al. 2016), each morphed into the next, exactly."""

import copy

import pytest
import torch
from torch import nn

import gnomon as gn
from contracts import answers, change
from gnomon.activations import PActivation
from gnomon.models import VGG16, CifarQuick

X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).double()
W = 4  # channels of a layer that has 32 in the paper


def spec(*groups):
    """Table 1's notation, (kernel, channels) per layer, in units of 32 channels."""
    return [[(kernel, W * wide) for kernel, wide in layers] for layers in groups]


# "[...]x2[...]x2" are four subnets: two of 32 channels, two of 64, here both in the third group.
TABLE = {
    "111": spec([(5, 1)], [(5, 1)], [(5, 2)]),
    "211": spec([(5, 4), (1, 1)], [(5, 1)], [(5, 2)]),
    "222": spec([(5, 4), (1, 1)], [(5, 4), (1, 1)], [(5, 8), (1, 2)]),
    "2222": spec([(5, 4), (1, 1)], [(5, 4), (1, 1)], [(5, 8), (1, 2), (5, 8), (1, 2)]),
    "3333": spec(
        [(5, 4), (3, 4), (1, 1)],
        [(5, 4), (3, 4), (1, 1)],
        [(5, 8), (3, 8), (1, 2), (5, 8), (3, 8), (1, 2)],
    ),
    "base": spec([(5, 1), (1, 1)], [(5, 1), (1, 1)], [(5, 2), (1, 2)]),
    "ksize": spec([(5, 1), (3, 1)], [(5, 1), (3, 1)], [(5, 2), (3, 2)]),
    "width": spec([(5, 2), (3, 1)], [(5, 2), (3, 1)], [(5, 4), (3, 2)]),
}

ONE, TWO, THREE = (f"features.group{i}.conv1" for i in (1, 2, 3))
STEPS = {  # to each network, from the one before: layer, channels between, kernels
    "211": [(ONE, 4 * W, (5, 1))],
    "222": [(TWO, 4 * W, (5, 1)), (THREE, 8 * W, (5, 1))],
    "2222": [
        (f"{THREE}.layer2", 2 * W, (1, 5)),
        (f"{THREE}.layer2.layer2", 8 * W, (5, 1)),
    ],
    "3333": [
        (f"{ONE}.layer1", 4 * W, (5, 3)),
        (f"{TWO}.layer1", 4 * W, (5, 3)),
        (f"{THREE}.layer1", 8 * W, (5, 3)),
        (f"{THREE}.layer2.layer2.layer1", 8 * W, (5, 3)),
    ],
}


def quick(name):
    torch.manual_seed(0)
    return CifarQuick(TABLE[name]).double()


def layers(model):
    """Weights and activations in order: names differ from the native network's, these must not."""
    found = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            found.append(tuple(module.weight.shape))
        elif isinstance(module, PActivation | nn.ReLU | nn.PReLU | nn.Tanh):
            found.append("activation")
    return [a for a, b in zip(found, [None, *found], strict=False) if a != b or a != "activation"]


def assert_kept(old, model, x=X, limit=1e-11):
    for training in (False, True):
        assert change(answers(old, x, training), answers(model, x, training)) <= limit


@pytest.mark.parametrize("activation", [nn.PReLU(), nn.Tanh()], ids=["PReLU", "Tanh"])
def test_cifar_111_to_211_to_222_to_2222_to_3333(activation):
    model = quick("111")
    old, grower = copy.deepcopy(model), gn.Grower(model, X)
    for name, steps in STEPS.items():
        for path, mid, kernels in steps:
            receipt = grower.grow(gn.Factor(path, mid, kernels, activation))
            assert receipt.preserves and receipt.largest_change <= 1e-11
        assert layers(model) == layers(CifarQuick(TABLE[name])), name
        assert_kept(old, model)
    gates = sum(isinstance(m, PActivation) for m in model.modules())
    assert gates == (9 if isinstance(activation, nn.Tanh) else 5)  # 4 x width: pairs; 1 x: a gate
    count = sum(p.numel() for p in CifarQuick(TABLE["3333"]).parameters())
    assert receipt.parameters[1] - gates <= count + 9 and receipt.parameters[1] >= count


def test_a_subnet_in_one_step_is_the_same_network():
    model = quick("111")
    old, grower = copy.deepcopy(model), gn.Grower(model, X)
    for path, wide in (ONE, 1), (TWO, 1), (THREE, 2):
        mids = (4 * wide * W, 4 * wide * W)
        grower.grow(gn.Factor(path, mids, (5, 3, 1), nn.ReLU()))
    native = CifarQuick([group[:3] for group in TABLE["3333"]])
    assert layers(model) == layers(native)
    assert_kept(old, model)


def test_base_to_ksize_to_width():
    model = quick("base")
    old, grower = copy.deepcopy(model), gn.Grower(model, X)
    for i in (1, 2, 3):
        grower.grow(gn.Enlarge(f"features.group{i}.conv2", kernel=3))
    native = CifarQuick(TABLE["ksize"]).double()
    assert repr(model) == repr(native)  # Enlarge and Widen leave no trace: the same classes
    assert_kept(old, model)
    firsts = [f"features.group{i}.conv1" for i in (1, 2, 3)]
    assert grower.grow(gn.Widen(firsts, by=2, rule=gn.NetMorph())).preserves
    native = CifarQuick(TABLE["width"]).double()
    assert repr(model) == repr(native)
    native.load_state_dict(model.state_dict())
    assert_kept(old, model)
    assert_kept(old, native)


PRELU, PTANH = PActivation(nn.ReLU()), nn.Tanh()


@pytest.mark.parametrize("activation", [PRELU, PTANH], ids=["PReLU", "PTanH"])
def test_softmax_regression_becomes_784_50_10(activation):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).double(), X[:, :1, :28, :28]
    old = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    receipt = gn.Grower(model, x, optimizer).grow(gn.Factor("1", 50, activation=activation))
    assert layers(model) == [(50, 784), "activation", (10, 50)]
    assert_kept(old, model, x)
    gate = model[1].activation
    assert isinstance(gate, PActivation) and gate.a.item() == 1.0
    assert receipt.parameters == (7_850, 784 * 50 + 50 + 1 + 500 + 10)
    nn.functional.cross_entropy(model(x), torch.tensor([3, 7])).backward()
    optimizer.step()
    assert gate.a.item() != 1.0  # it learns to bend


def test_784_5_10_is_refused_because_its_rank_is_too_small():
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    with pytest.raises(gn.CannotPreserve, match="at least 10 channels"):
        gn.Grower(model, X[:, :1, :28, :28].float()).plan(gn.Factor("1", 5))


def test_vgg16_becomes_vgg16_netmorph():
    """Table 2: a 3x3 of four times the width and a 1x1 at the end of the first three groups."""
    torch.manual_seed(0)
    groups = ((2, 2), (3, 3), (4, 4, 4), (4, 4, 4), (4, 4, 4))
    model = VGG16(groups, hidden=8, classes=5).double()
    old, grower = copy.deepcopy(model), gn.Grower(model, X)
    for path in ("features.2", "features.7", "features.14"):
        receipt = grower.grow(gn.Factor(path, activation=nn.ReLU()))
        assert receipt.preserves and "antisymmetric pairs" in str(receipt.plan)
    assert_kept(old, model)
    found = [m for m in model.features.modules() if isinstance(m, nn.Conv2d)]
    assert [(m.kernel_size[0], m.out_channels) for m in found] == [
        *[(3, 2), (3, 8), (1, 2)],
        *[(3, 3), (3, 12), (1, 3)],
        *[(3, 4), (3, 4), (3, 16), (1, 4)],
        *[(3, 4)] * 6,
    ]
