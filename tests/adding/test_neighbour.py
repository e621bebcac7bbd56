"""What is read off the tape about the layer before a place, and about activations."""

import math

import pytest
import torch
import torch.nn.functional as F
from test_zero import Act
from torch import nn

import gnomon as gn
from contracts import answers, change
from gnomon.adding.making import orthogonal
from gnomon.adding.neighbour import (
    activation_of,
    is_identity_on,
    neighbour,
    range_of,
    slope_of_odd_part,
)
from gnomon.analysis.groups import analyse
from gnomon.draw import Draw
from gnomon.recording.tape import record
from toys import TOYS

ANY, POSITIVE = (-math.inf, math.inf), (0.0, math.inf)
IDENTITY = {
    "relu": (nn.ReLU(), POSITIVE, ANY),
    "relu6": (nn.ReLU6(), (0.0, 6.0), POSITIVE),
    "relu6 of a sigmoid": (nn.ReLU6(), (0.0, 1.0), POSITIVE),
    "hardtanh": (nn.Hardtanh(), (-1.0, 1.0), POSITIVE),
    "abs": (Act(torch.abs), POSITIVE, ANY),
    "hardshrink": (nn.Hardshrink(0.5), None, ANY),
    "identity": (nn.Identity(), ANY, None),
    "leaky relu": (nn.LeakyReLU(), POSITIVE, ANY),
    "elu": (nn.ELU(), POSITIVE, ANY),
    "selu": (nn.SELU(), None, POSITIVE),
    "gelu": (nn.GELU(), None, POSITIVE),
    "silu": (nn.SiLU(), None, POSITIVE),
    "softplus": (nn.Softplus(), None, POSITIVE),
    "tanh": (nn.Tanh(), None, (-1.0, 1.0)),
    "sigmoid": (nn.Sigmoid(), None, (0.0, 1.0)),
    "hardswish": (nn.Hardswish(), None, POSITIVE),
    "celu": (nn.CELU(), POSITIVE, ANY),
}


@pytest.mark.parametrize("what", IDENTITY)
def test_where_an_activation_is_the_identity(what):
    activation, yes, no = IDENTITY[what]
    if yes is not None:
        assert is_identity_on(activation, yes)
    if no is not None:
        assert not is_identity_on(activation, no)


SLOPES = {
    "relu": (nn.ReLU(), 1), "gelu": (nn.GELU(), 1), "tanh gelu": (nn.GELU("tanh"), 1),
    "silu": (nn.SiLU(), 1), "softplus": (nn.Softplus(), 1), "hardswish": (nn.Hardswish(), 1),
    "log sigmoid": (nn.LogSigmoid(), 1), "leaky relu": (nn.LeakyReLU(0.1), 1.1),
    "identity": (nn.Identity(), 2), "elu": (nn.ELU(), None), "tanh": (nn.Tanh(), None),
    "sigmoid": (nn.Sigmoid(), None), "mish": (nn.Mish(), None), "abs": (Act(torch.abs), None),
    "relu6": (nn.ReLU6(), None), "selu": (nn.SELU(), None), "hardtanh": (nn.Hardtanh(), None),
    "softsign": (nn.Softsign(), None), "sharp softplus": (nn.Softplus(3.0), None),
}  # fmt: skip


@pytest.mark.parametrize("what", SLOPES)
def test_the_slope_of_the_odd_part(what):
    activation, kappa = SLOPES[what]
    found = slope_of_odd_part(activation)
    assert found == kappa if kappa is None else abs(found - kappa) <= 1e-12
    if kappa is not None:
        reach = 20 if what == "softplus" else 400  # torch's is the line x beyond 20, 2e-9 off
        x = torch.linspace(-reach, reach, 1001, dtype=torch.float64)
        assert (activation(x) - activation(-x) - found * x).abs().max() <= 1e-12 * reach


RECORDED = [
    nn.ReLU(), nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.Tanh(), nn.Sigmoid(), nn.Softplus(),
    nn.Softplus(2.0), nn.Hardswish(), nn.Hardsigmoid(), nn.Mish(), nn.LeakyReLU(0.3), nn.ELU(),
    nn.ELU(0.5), nn.CELU(0.7), nn.SELU(), nn.ReLU6(), nn.Hardtanh(-0.5, 2.0), nn.LogSigmoid(),
    nn.PReLU(), nn.ReLU(inplace=True),
]  # fmt: skip


@pytest.mark.parametrize("activation", RECORDED, ids=str)
def test_a_recorded_activation_is_made_again(activation):
    x = torch.linspace(-3, 3, 41, dtype=torch.float64)
    tape = record(activation.double(), ((x.clone(),), {}), training=False, fake=False)
    made = [m for m in map(activation_of, tape.ops) if m is not None]
    assert len(made) == 1
    assert torch.allclose(made[0](x.clone()), activation(x.clone()), rtol=0, atol=1e-12)


RANGES = {
    "relu": (F.relu, POSITIVE),
    "relu of anything": (lambda x: F.relu(x - 3), POSITIVE),
    "relu6": (F.relu6, (0.0, 6.0)),
    "sigmoid": (torch.sigmoid, (0.0, 1.0)),
    "tanh": (torch.tanh, (-1.0, 1.0)),
    "softmax": (lambda x: x.softmax(-1), (0.0, 1.0)),
    "hardtanh": (lambda x: F.hardtanh(x, -2, 3), (-2.0, 3.0)),
    "sum": (lambda x: torch.sigmoid(x) + torch.tanh(x), (-1.0, 2.0)),
    "difference": (lambda x: F.relu(x) - 0.5 * F.relu(-x), ANY),
    "weighted sum": (lambda x: torch.add(F.relu(x), F.relu(x), alpha=-1), ANY),
    "plus a number": (lambda x: F.relu(x) + (-4), ANY),
    "cat": (lambda x: torch.cat([F.relu(x), torch.tanh(x)], -1), (-1.0, math.inf)),
    "pooled": (lambda x: F.max_pool1d(F.relu(x), 2), POSITIVE),
    "average": (lambda x: F.avg_pool1d(torch.sigmoid(x) , 2, padding=1), (0.0, 1.0)),
    "shape": (lambda x: torch.sigmoid(x).flatten().view(4, -1).t()[1:], (0.0, 1.0)),
    "dropout": (lambda x: F.dropout(torch.sigmoid(x), 0.5), ANY),
    "product": (lambda x: F.relu(x) * F.relu(x), ANY),
    "input": (lambda x: x * 1.0, ANY),
    "in place": (lambda x: x.clone().relu_(), POSITIVE),
    "written over": (lambda x: F.relu(x).sub_(3), ANY),
    "relu, then something in place": (lambda x: (F.relu(x).neg_()).view(-1), ANY),
    "softplus": (F.softplus, POSITIVE),
    "interpolated": (
        lambda x: F.interpolate(F.relu(x[None]), scale_factor=2, mode="linear"), POSITIVE),
    "cubic overshoots": (
        lambda x: F.interpolate(F.relu(x[None, None]), scale_factor=2, mode="bicubic"), ANY),
}  # fmt: skip


@pytest.mark.parametrize("what", RANGES)
def test_ranges_hold_all_values(what):
    function, widest = RANGES[what]
    x = 3 * torch.randn(6, 8, dtype=torch.float64)
    tape = record(Act(function), ((x,), {}), training=True, fake=False)
    low, high = range_of(tape, len(tape.ops), tape.outputs[0])
    assert low <= tape.outputs[0].min() and tape.outputs[0].max() <= high
    if what in ("relu", "sigmoid", "tanh", "pooled", "cat", "sum", "hardtanh"):
        assert (low, high) == widest


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 16, 21, 64])
def test_the_orthogonal_matrix_is_exact_in_bfloat16(n):
    a = orthogonal(n, Draw(0, "a"))
    assert torch.equal(a @ a.T, torch.eye(n, dtype=torch.float64))
    assert torch.equal(a, a.bfloat16().double())


def like(toy, path):
    model, x = TOYS[toy].model(), TOYS[toy].example()
    analysis = analyse(model, [((x,), {})], {})
    recording = analysis.recordings[0]
    module = model.get_submodule(path)
    visit = next(v for v in recording.visits if v.module is module)
    return neighbour(analysis, recording, visit.end, visit.output)


@pytest.mark.parametrize(
    ("toy", "path", "spatial", "channels", "kernel", "norm", "activation"),
    [
        ("mlp", "0", 0, 4, (), False, None),
        ("mlp", "3", 0, 6, (), False, nn.GELU),
        ("resnet", "0.2", 2, 4, (3, 3), True, nn.ReLU),
        ("resnet", "2.down.0", 2, 6, (1, 1), False, nn.ReLU),
        ("resnet", "4.1", 0, 6, (), True, nn.ReLU),
        ("conv1d", "4", 1, 4, (1,), False, nn.ReLU),
        ("conv3d", "1", 3, 4, (3, 3, 3), True, None),
        ("mobile", "10", 2, 6, (3, 3), False, nn.Hardswish),
        ("attention", "out", 0, 5, (), False, None),
    ],
)
def test_the_neighbour_is_read_off_the_tape(toy, path, spatial, channels, kernel, norm, activation):
    found = like(toy, path)
    assert (found.spatial, found.channels, found.norm) == (spatial, channels, norm)
    assert found.kernel == kernel
    if activation is not None:
        assert type(found.activation) is activation


def test_a_large_model_recorded_on_fake_tensors_is_deepened_too(monkeypatch):
    """It crashed: the transposed weight of a linear layer has no numbers then."""
    monkeypatch.setattr("gnomon.recording.tape.REAL_PARAMETERS", 0)
    for toy, path in ("mlp", "2"), ("weight_normed", "0"), ("resnet", "1"):
        model, x = TOYS[toy].model(), TOYS[toy].example()
        before, grower = answers(model, x, True), gn.Grower(model, x)
        assert grower.analysis.fake
        grower.grow(gn.Deepen(path))
        assert change(before, answers(model, x, True)) <= 1e-12
