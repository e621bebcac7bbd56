"""A layer as tensors and back, and its split as plain data."""

import pytest
import torch
from torch import nn

from gnomon.adding import branching, replacing
from gnomon.adding.plain_layer import Layer, layer_of, module_of
from gnomon.adding.splitting import Split, split
from gnomon.draw import Draw
from gnomon.errors import BadCheckpoint, CannotPreserve, Unsupported

LAYERS = [
    nn.Linear(4, 6),
    nn.Linear(4, 6, bias=False),
    nn.Conv1d(4, 6, 3, 2, 1),
    nn.Conv2d(4, 6, (1, 3), groups=2, padding="same", padding_mode="circular"),
    nn.Conv2d(4, 6, 2, padding=(2, 1), dilation=(1, 2), bias=False),
    nn.Conv3d(2, 4, 2, padding=1, padding_mode="replicate"),
    nn.ConvTranspose2d(4, 6, 3, 2, 1, 1),
]


def example(layer):
    into = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
    return torch.randn(2, into, *[7 for _ in layer.weight.shape[2:]])


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_a_layer_taken_apart_and_put_together_is_the_same(layer):
    again = module_of(layer_of(layer))
    x = example(layer)
    assert torch.equal(again(x), layer(x))
    assert type(again) is type(layer) and sum(p.numel() for p in again.parameters()) == sum(
        p.numel() for p in layer.parameters()
    )


def test_uneven_padding_stands_in_front():
    even = layer_of(nn.Conv2d(4, 6, 3, padding=1))
    for mode in "zeros", "reflect", "replicate", "circular":
        uneven = Layer(**{**vars(even), "sides": ((1, 0), (2, 1)), "mode": mode})
        made = module_of(uneven)
        assert isinstance(made, nn.Sequential) and made[1].padding == (0, 0)
        x = torch.randn(2, 4, 5, 5)
        mode = "constant" if mode == "zeros" else mode
        padded = nn.functional.pad(x, (2, 1, 1, 0), mode=mode)
        wanted = nn.functional.conv2d(padded, even.weight, even.bias)
        assert torch.equal(made(x), wanted)


def test_making_layers_draws_nothing_and_writes_everything():
    state = torch.get_rng_state()
    for layer in LAYERS:
        row = split(layer_of(layer), how(layer), None)
        modules = [module_of(part) for part in row]
        assert all(not p.any() for m in modules[:-1] for p in m.parameters())
    assert torch.equal(state, torch.get_rng_state())


def how(layer, **options):
    own = tuple(layer.weight.shape[2:])
    return Split((12,), (own, (1,) * len(own)), **options)


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_the_shapes_planned_are_the_shapes_solved(layer):
    planned = split(layer_of(layer), how(layer), None)
    solved = split(layer_of(layer), how(layer), Draw(0, "x"))
    for one, two in zip(planned, solved, strict=True):
        assert one.weight.shape == two.weight.shape and one.sides == two.sides
        assert (one.stride, one.dilation, one.extra) == (two.stride, two.dilation, two.extra)
        assert one.weight.dtype == two.weight.dtype == layer.weight.dtype
        assert not one.weight.any() and two.weight.all()
    assert solved[-1].bias is layer.bias


@pytest.mark.parametrize("widths", [(8, 4), (12, 12), (24, 12), (32, 4)])
@pytest.mark.parametrize("kernels", [(3, 3, 1), (3, 3, 2), (5, 2, 2), (2, 2, 2), (1, 2, 5)])
def test_a_chain_is_planned_where_it_will_be_solved(kernels, widths):
    """Padding is planned from shapes alone, before the place of the taps is known."""
    layer = layer_of(nn.Conv2d(4, 4, 3, padding=1))
    request = Split(widths, tuple((k, k) for k in kernels))
    try:
        solved = split(layer, request, Draw(0, "x"))
    except CannotPreserve:
        with pytest.raises(CannotPreserve):
            split(layer, request, None)
        return
    assert [part.sides for part in split(layer, request, None)] == [p.sides for p in solved]


def test_what_is_split_must_be_a_layer_of_torch_and_nothing_more():
    class Other(nn.Conv2d):
        def _conv_forward(self, x, weight, bias):
            return super()._conv_forward(x, weight - weight.mean(), bias)

    class Renamed(nn.Linear):
        """Only another constructor."""

    assert layer_of(Renamed(4, 6)).weight.shape == (6, 4)
    for module, says in (
        (nn.ReLU(), "not a plain"), (nn.Bilinear(2, 2, 2), "not a plain"), (nn.GRU(2, 2), "not"),
        (Other(4, 6, 3), "something else"), (nn.Embedding(3, 4), "not a plain"),
        (nn.ConvTranspose2d(4, 6, 3, groups=2), "in groups"),
    ):  # fmt: skip
        with pytest.raises(Unsupported, match=says):
            layer_of(module)


def test_requests_are_read_back_from_their_data_and_nothing_else_is():
    request = Split((8, 6), ((3, 3), (1, 1), (1, 1)), "interior", "pairs", 1.25)
    data = replacing.options_of(request)
    assert replacing.split_of(data) == request
    branches = branching.Branches(((3,), (1,)), 0.5, (4, 2), 0)
    assert branching.branches_of(branching.options_of(branches)) == branches
    for key, value in (
        ("border", "x"),
        ("way", None),
        ("kappa", 0),
        ("widths", 3),
        ("kernels", [[0]]),
    ):
        with pytest.raises(BadCheckpoint, match="plan again"):
            replacing.split_of({**data, key: value})
    other = branching.options_of(branches)
    for key, value in (
        ("kernels", []),
        ("noise", -1),
        ("noise", "nan"),
        ("widths", [1]),
        ("zero", 1),
    ):
        with pytest.raises(BadCheckpoint, match="plan again"):
            branching.branches_of({**other, key: value})
