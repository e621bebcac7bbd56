"""Zero starts: modules that compute exactly nothing, and learn from the first step on."""

import copy
import math
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gnomon as gn
from toys import shake
from untouched import everything


class Act(nn.Module):
    """An activation from a function, or any other forward."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs):
        return self.function(self, *inputs) if self._modules else self.function(*inputs)


def of(inner, last=None, hidden=6):
    """Two layers with something between, and perhaps something behind."""
    layers = [nn.Linear(3, hidden), inner, nn.Linear(hidden, 3)]
    return nn.Sequential(*layers, *([last] if last is not None else []))


def convs(dims, *inner, hidden=6, **options):
    conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dims]
    return nn.Sequential(
        conv(2, hidden, 3, padding=1, **options), *inner, conv(hidden, 2, 3, padding=1)
    )


def gated():
    parts = {"gate": nn.Linear(3, 5), "value": nn.Linear(3, 5), "out": nn.Linear(5, 3)}
    return Act(lambda m, x: m.out(F.silu(m.gate(x)) * m.value(x)), **parts)


def squeezed():
    parts = {
        "enter": nn.Conv2d(2, 6, 3, padding=1), "norm": nn.BatchNorm2d(6),
        "squeeze": nn.Conv2d(6, 2, 1), "excite": nn.Conv2d(2, 6, 1), "out": nn.Conv2d(6, 2, 1),
    }  # fmt: skip

    def run(m, x):
        h = F.silu(m.norm(m.enter(x)))
        gate = torch.sigmoid(m.excite(F.silu(m.squeeze(h.mean((2, 3), keepdim=True)))))
        return m.out(h * gate)

    return Act(run, **parts)


def attention():
    parts = {n: nn.Linear(4, 4) for n in ("q", "k", "v", "out")}

    def run(m, x):
        q, k, v = (getattr(m, n)(x).unflatten(-1, (2, 2)).transpose(1, 2) for n in ("q", "k", "v"))
        return m.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    return Act(run, **parts)


VECTOR, IMAGE = (5, 3), (4, 2, 6, 6)
ZEROABLE = {
    "linear": (lambda: of(nn.GELU()), VECTOR),
    "odd": (lambda: of(nn.GELU(), hidden=7), VECTOR),
    "one triple": (lambda: of(nn.GELU(), hidden=3), VECTOR),
    "one pair": (lambda: of(nn.GELU(), hidden=2), VECTOR),
    "sigmoid inside": (lambda: of(nn.Sigmoid()), VECTOR),
    "batch norm": (lambda: of(nn.BatchNorm1d(6)), VECTOR),
    "layer norm": (lambda: of(nn.Sequential(nn.LayerNorm(6), nn.GELU())), VECTOR),
    "glu": (lambda: nn.Sequential(nn.Linear(3, 8), nn.GLU(), nn.Linear(4, 3)), VECTOR),
    "gated": (gated, VECTOR),
    "attention": (attention, (2, 3, 4)),
    "conv1d": (lambda: convs(1, nn.BatchNorm1d(6), nn.ReLU()), (4, 2, 7)),
    "conv2d": (lambda: convs(2, nn.BatchNorm2d(6), nn.ReLU()), IMAGE),
    "conv3d": (lambda: convs(3, nn.BatchNorm3d(6), nn.ReLU()), (3, 2, 3, 4, 4)),
    "group norm": (lambda: convs(2, nn.GroupNorm(3, 6), nn.SiLU()), IMAGE),
    "instance norm": (lambda: convs(2, nn.InstanceNorm2d(6, affine=True), nn.ReLU()), IMAGE),
    "depthwise": (lambda: convs(2, nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.ReLU()), IMAGE),
    "grouped": (lambda: convs(2, nn.Conv2d(6, 6, 3, padding=1, groups=2), nn.ReLU()), IMAGE),
    "prelu": (lambda: convs(2, nn.PReLU(6)), IMAGE),
    "squeeze-excite": (squeezed, IMAGE),
    "no bias": (lambda: nn.Sequential(nn.Linear(3, 6, bias=False), nn.Linear(6, 3, bias=False)),
                VECTOR),
    "pooled": (lambda: convs(2, nn.ReLU(), nn.AvgPool2d(2), nn.Upsample(scale_factor=2)), IMAGE),
    "transposed": (lambda: nn.Sequential(nn.Conv2d(2, 6, 2, 2), nn.ReLU(),
                                         nn.ConvTranspose2d(6, 2, 2, 2)), IMAGE),
}  # fmt: skip

ENDINGS = {
    "none": lambda: None,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "leaky relu": nn.LeakyReLU,
    "prelu": nn.PReLU,
    "hardtanh": nn.Hardtanh,
    "hardswish": nn.Hardswish,
    "in place": lambda: nn.SiLU(inplace=True),
    "sin": lambda: Act(torch.sin),
    "atan": lambda: Act(torch.atan),
    "swish by hand": lambda: Act(lambda x: x * torch.sigmoid(x)),
    "softsign": nn.Softsign,
    "shifted softplus": lambda: Act(lambda x: F.softplus(x) - math.log(2)),
    "cos - .3": lambda: Act(lambda x: torch.cos(x) - 0.3),
    "sigmoid - .9": lambda: Act(lambda x: torch.sigmoid(x) - 0.9),
    "flattened": lambda: Act(lambda x: x.unsqueeze(1).flatten(1)),
    "scaled": lambda: Act(lambda x: 3 * x),
}
SLACK = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}


def made(make, dtype=torch.float64):
    torch.manual_seed(0)
    return make().to(dtype)


def numbers(shape, dtype=torch.float64, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype)


@torch.no_grad()
def largest(module, x):
    """The largest output in both modes, of a copy."""
    return max(float(copy.deepcopy(module).train(m)(x).abs().max()) for m in (True, False))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("what", ZEROABLE)
def test_a_module_starts_at_zero_in_both_modes_and_on_other_inputs(what, dtype):
    make, shape = ZEROABLE[what]
    module, x = made(make, dtype), numbers(shape, dtype)
    was = largest(module, x)
    assert gn.start_at_zero(module, x) is module
    for seed in (0, 1):
        assert largest(module, numbers(shape, dtype, seed)) <= SLACK[dtype] * was


@pytest.mark.parametrize("twins", [2, 3, 4])
@pytest.mark.parametrize("hidden", [4, 7, 8, 11])
@pytest.mark.parametrize("dtype", list(SLACK), ids=str)
def test_readers_of_a_class_cancel_bit_for_bit_in_every_dtype(dtype, hidden, twins):
    module = made(lambda: of(nn.GELU(), hidden=hidden), dtype)
    gn.start_at_zero(module, numbers(VECTOR, dtype), twins=twins)
    rows, columns = module[0].weight, module[2].weight.double()
    classes = [(row == rows).all(1).nonzero().squeeze(1).tolist() for row in rows]
    unique = [list(c) for c in dict.fromkeys(map(tuple, classes))]
    assert len(unique) == hidden // twins
    assert sorted(map(len, unique))[:-1] == [twins] * (hidden // twins - 1)
    for members in unique:
        assert columns[:, members].sum(1).abs().max() == 0
        assert torch.equal(
            module[0].bias[members], module[0].bias[members[:1]].expand(len(members))
        )
    assert module[2].bias.abs().max() == 0


@pytest.mark.parametrize("end", ENDINGS)
def test_the_ending_may_be_anything_with_a_root_and_a_slope_there(end):
    module, x = made(lambda: of(nn.GELU(), ENDINGS[end]())), numbers(VECTOR)
    gn.start_at_zero(module, x)
    assert largest(module, x) <= 1e-14
    assert torch.unique(module[2].bias.detach()).numel() == 1
    assert (module[2].bias[0] != 0) == (end in ("cos - .3", "sigmoid - .9"))
    assert reached(module, x, torch.optim.SGD, steps=2) == set()


def reached(module, x, optimizer, steps):
    """Names of parameters without a gradient in any of the steps, and of twins still together."""
    model = copy.deepcopy(module).train()
    descent = optimizer(model.parameters(), lr=0.01)
    waiting = {name for name, _ in model.named_parameters()}
    weights = numbers((64, 64, 64), seed=3)
    for _ in range(steps):
        descent.zero_grad()
        y = model(x)
        (y * weights.flatten()[: y.numel()].view(y.shape) + y**2).sum().backward()
        waiting -= {n for n, p in model.named_parameters() if p.grad.abs().max() > 1e-9}
        descent.step()
    first = next(model.parameters()).detach().flatten(1)
    apart = torch.cdist(first, first) + torch.eye(len(first))
    return waiting | ({"twins together"} if apart.min() < 1e-9 else set())


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
@pytest.mark.parametrize("what", [w for w in ZEROABLE if w not in ("one triple",)])
def test_every_parameter_learns_and_twins_part(what, optimizer):
    make, shape = ZEROABLE[what]
    module, x = made(make), numbers(shape)
    start = gn.start_at_zero(module, x)
    before_a_norm = {"batch norm": {"0.bias"}, "conv1d": {"0.bias"}, "conv2d": {"0.bias"},
                     "conv3d": {"0.bias"}, "instance norm": {"0.bias"},
                     "squeeze-excite": {"enter.bias"}, "attention": {"k.bias"}}  # fmt: skip
    assert reached(start, x, optimizer, 2) <= before_a_norm.get(what, set())


def test_triples_part_within_two_steps_of_adam():
    module, x = made(lambda: of(nn.GELU(), hidden=3)), numbers(VECTOR)
    assert reached(gn.start_at_zero(module, x), x, torch.optim.Adam, steps=3) == set()


def test_a_last_layer_of_zeros_comes_alive():
    module, x = made(lambda: of(nn.GELU())), numbers(VECTOR)
    nn.init.zeros_(module[2].weight)
    gn.start_at_zero(module, x)
    assert module[2].weight.abs().min() > 0 and largest(module, x) <= 1e-15
    assert reached(module, x, torch.optim.SGD, steps=1) == set()


def test_the_spread_of_the_readers_stays():
    module = made(lambda: nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64)))
    before = float(module[2].weight.detach().std())
    gn.start_at_zero(module)
    assert 0.9 < float(module[2].weight.detach().std()) / before < 1.1


@pytest.mark.parametrize("make", [lambda: of(nn.GELU()), lambda: convs(2, nn.ReLU())])
def test_inputs_are_guessed_from_the_first_layer(make):
    module = made(make)
    gn.start_at_zero(module)
    shape = VECTOR if isinstance(module[0], nn.Linear) else IMAGE
    assert largest(module, numbers(shape)) <= 1e-14


def test_nothing_but_twins_and_the_bias_is_touched():
    """Generators, mode, gradients, hooks and buffers stay as they are."""
    module = made(lambda: nn.Sequential(OrderedDict(
        first=nn.Linear(3, 5), a=nn.GELU(), inner=nn.Linear(5, 6), norm=nn.BatchNorm1d(6),
        b=nn.GELU(), last=nn.Linear(6, 3))))  # fmt: skip
    shake(module).eval()
    module(numbers(VECTOR)).sum().backward()
    module.a.training = True
    before = everything(module)
    gn.start_at_zero(module, numbers(VECTOR))
    after = everything(module)
    assert [name for name in before if before[name] != after.get(name)] == [
        f"{name}.{kind}"
        for name, kind in zip(
            ("inner", "inner", "norm", "norm", "last", "last"), ("weight", "bias") * 3, strict=True
        )
    ] + ["norm.running_mean", "norm.running_var"]


def test_the_writers_that_stay_are_the_first_of_each_class():
    module = made(lambda: of(nn.GELU()))
    before = copy.deepcopy(module)
    gn.start_at_zero(module)
    assert torch.equal(module[0].weight[::2], before[0].weight[::2])


def test_it_is_the_same_every_time_and_again():
    one, other = made(lambda: of(nn.GELU())), made(lambda: of(nn.GELU()))
    nn.init.zeros_(one[2].weight), nn.init.zeros_(other[2].weight)
    gn.start_at_zero(one), torch.randn(9), gn.start_at_zero(other)
    assert torch.equal(one[2].weight, other[2].weight)
    again = copy.deepcopy(one)
    assert largest(gn.start_at_zero(again), numbers(VECTOR)) <= 1e-15


def test_a_float32_module_is_zero_under_autocast_and_in_channels_last():
    module, x = made(ZEROABLE["conv2d"][0], torch.float32), numbers(IMAGE, torch.float32)
    module.to(memory_format=torch.channels_last)
    was = largest(module, x)
    gn.start_at_zero(module, x)
    assert module[0].weight.is_contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        assert largest(module, x) <= 2**-6 * was


def test_a_gnomon_block_and_a_whole_model_can_start_at_zero():
    block = made(lambda: gn.Residual(convs(2, nn.ReLU()), nn.Conv2d(2, 2, 1)))
    with pytest.raises(gn.CannotPreserve, match="several paths"):
        gn.start_at_zero(block, numbers(IMAGE))
    gn.start_at_zero(block.body, numbers(IMAGE))
    assert largest(block.body, numbers(IMAGE)) <= 1e-14
    model = made(lambda: nn.Sequential(block, nn.Flatten(), nn.Linear(72, 2)))
    gn.start_at_zero(model, numbers(IMAGE))
    assert largest(model, numbers(IMAGE)) <= 1e-14


def test_frozen_parameters_stay_frozen():
    module = made(lambda: of(nn.GELU()))
    module[0].requires_grad_(False)
    gn.start_at_zero(module)
    assert largest(module, numbers(VECTOR)) <= 1e-15
    assert [p.requires_grad for p in module.parameters()] == [False, False, True, True]
