"""Modules as data: what is written, what comes back, and that files run nothing foreign."""

import json

import pytest
import torch
from torch import nn

import gnomon as gn
from gnomon.blocks import OneEnded, R2RBlock, ZeroPadded
from gnomon.planning.spec import build, classes_of, describe, factories_needed
from own_blocks import Act, Gated, Secret

LAYERS = [
    nn.Linear(3, 4), nn.Linear(3, 4, bias=False), nn.Conv1d(2, 4, 3, padding="same"),
    nn.Conv2d(4, 6, (3, 1), stride=2, padding=(1, 0), dilation=2, groups=2, bias=False),
    nn.Conv3d(1, 2, 3, padding_mode="circular"), nn.ConvTranspose2d(2, 3, 2, 2, output_padding=1),
    nn.BatchNorm2d(4), nn.BatchNorm1d(4, affine=False), nn.BatchNorm2d(4, momentum=None),
    nn.BatchNorm2d(3, track_running_stats=False), nn.LayerNorm(5), nn.LayerNorm((2, 5), bias=False),
    nn.GroupNorm(2, 4), nn.RMSNorm(4), nn.InstanceNorm2d(3, affine=True), nn.Embedding(7, 4),
    nn.ReLU(), nn.ReLU(inplace=True), nn.GELU("tanh"), nn.LeakyReLU(0.3), nn.PReLU(3, 0.1),
    nn.ELU(0.5), nn.Softplus(2.0, 10.0), nn.Hardtanh(-2.0, 3.0), nn.Threshold(0.1, 2.0),
    nn.Softmax(-1), nn.GLU(1), nn.Dropout(0.3), nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2),
    nn.AdaptiveAvgPool2d((1, None)), nn.Flatten(2), nn.Unflatten(1, (2, 3)), nn.Identity(),
    nn.Upsample(scale_factor=2.0, mode="nearest"), nn.PixelShuffle(2), nn.ChannelShuffle(2),
    nn.ZeroPad2d(1), nn.Bilinear(2, 3, 4), nn.Sequential(), nn.ModuleList([nn.Linear(2, 2)]),
    nn.ModuleDict({"a": nn.GELU(), "b": nn.Linear(2, 3)}),
    nn.Sequential(nn.Sequential(nn.Linear(2, 3)), nn.Tanh(), nn.Linear(3, 2, dtype=torch.float16)),
    gn.Residual(nn.Linear(3, 3)), gn.Residual(nn.Linear(3, 3), nn.Linear(3, 3), nn.ReLU()),
    ZeroPadded(2, 2), OneEnded(3, 5, dims=1, stride=2), OneEnded(3, 3, before=nn.AvgPool2d(2)),
    R2RBlock(3, 4, 6), R2RBlock(3, 3, (4, 5), kernel_size=(1, 3), twins=3, activation=nn.GELU),
    R2RBlock(3, 3, 4, dims=0, norm=None, form="concatenated"),
    Gated(4), Gated(4, 7, nn.Tanh), nn.Linear(3, 4).double(), nn.Linear(3, 4).bfloat16(),
]  # fmt: skip


def signature(module):
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return str(module), [(n, x.shape, x.dtype) for n, x in tensors]


@pytest.mark.parametrize("module", LAYERS, ids=lambda m: str(m)[:50])
def test_a_layer_comes_back_from_json(module):
    spec = json.loads(json.dumps(describe(module)))
    assert "factory" not in spec, spec
    again = build(spec, classes_of(module))
    assert type(again) is type(module) and signature(again) == signature(module)


class Heard(nn.Module):
    """Holds a layer that lists its weights, and references to them."""

    def __init__(self, width):
        super().__init__()
        self.width, self.layer = width, nn.GRU(width, width)


def test_what_holds_a_recurrent_layer_comes_back():
    spec = describe(Heard(3))
    assert spec["arguments"] == {"width": 3}
    assert signature(build(spec, classes_of(Heard(3)))) == signature(Heard(3))


class Stretched(Heard):
    """Its recurrent layer is not the one that its argument says."""

    def __init__(self, width):
        super().__init__(width)
        self.layer = nn.GRU(width, width)
        if not self.layer.weight_hh_l0.is_meta:
            self.layer._flat_weights = self.layer._flat_weights[:-1]


def test_lists_of_weights_are_compared_by_their_shapes():
    assert "factory" in describe(Stretched(3))


class Converted(nn.Module):
    """Makes its buffers in one dtype whatever the default is."""

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.ones(2, dtype=torch.float64))
        self.layer = nn.Linear(2, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_what_is_built_has_one_dtype_as_if_it_had_been_converted(dtype):
    spec = {"class": "mine", "arguments": {}, "dtype": str(dtype).removeprefix("torch.")}
    made = build(spec, {"mine": Converted})
    assert {t.dtype for t in (made.scale, made.layer.weight, made.layer.bias)} == {dtype}


class Renamed(nn.Module):
    """Keeps its argument under another name."""

    def __init__(self, width):
        super().__init__()
        self.size, self.layer = width, nn.Linear(width, width)


class Doubled(nn.Module):
    """Keeps something else under its argument's name."""

    def __init__(self, width):
        super().__init__()
        self.width = 2 * width
        self.layer = nn.Linear(width, width)


class Free(nn.Module):
    def __init__(self, *widths, **options):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(w, w) for w in widths)


class Registering(nn.Module):
    """Gets a layer after it was made."""

    def __init__(self, width):
        super().__init__()
        self.width = width


def registered():
    module = Registering(3)
    module.extra = nn.Linear(3, 3)
    return module


def hooked(module):
    return module


UNREADABLE = {
    "renamed": lambda: Renamed(3),
    "doubled": lambda: Doubled(3),
    "free": lambda: Free(3, 4),
    "function": lambda: Act(torch.sin),
    "tuple": lambda: Secret((3, 4)),
    "registered later": registered,
    "subclass of a container": lambda: type("Mine", (nn.Sequential,), {})(nn.Linear(2, 2)),
    "resized": lambda: resized(),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)),
}


def resized():
    layer = nn.Linear(3, 4)
    layer.weight = nn.Parameter(torch.zeros(5, 3))
    return layer


@pytest.mark.parametrize("what", UNREADABLE)
def test_what_cannot_be_read_back_becomes_a_factory(what):
    module = UNREADABLE[what]()
    spec = describe(module)
    assert list(spec) == ["factory"] and factories_needed(spec) == [spec["factory"]]
    with pytest.raises(gn.BadCheckpoint, match="blocks="):
        build(spec, classes_of(module))
    made = build(spec, {spec["factory"]: lambda: module})
    assert made is module


def test_one_unreadable_child_of_a_sequence_is_a_factory_alone():
    spec = describe(nn.Sequential(nn.Linear(3, 4), Secret((4, 5))))
    assert factories_needed(spec) == ["own_blocks.Secret"] and spec["class"].endswith("Sequential")


def test_describing_draws_nothing():
    state = torch.get_rng_state()
    for module in LAYERS[:20]:
        describe(module)
    assert torch.equal(state, torch.get_rng_state())
