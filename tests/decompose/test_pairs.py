"""Base and pairs: dense, cheap, exact at borders, and through a real activation."""

import pytest
import torch
import torch.nn.functional as F
from two_layers import change, normal, run

from gnomon.decompose import (
    Geometry,
    antisymmetric,
    base_and_pairs,
    centred,
    density,
    factored,
    paired,
)
from gnomon.draw import Draw
from gnomon.errors import CannotPreserve

THREE = (3, 3)
ONE = ((1, 1), (1, 1))
ACTIVATIONS = {
    "relu": (F.relu, 1.0),
    "gelu": (F.gelu, 1.0),
    "gelu tanh": (lambda x: F.gelu(x, approximate="tanh"), 1.0),
    "silu": (F.silu, 1.0),
    "softplus": (F.softplus, 1.0),
    "hardswish": (F.hardswish, 1.0),
    "leaky relu": (lambda x: F.leaky_relu(x, 0.2), 1.2),
}


def ran(x, two, activation=lambda h: h, groups=1):
    before, behind = two.paddings(ONE, second=centred(THREE))
    hidden = run(x, two.first, Geometry(before, groups=groups), two.first_bias)
    assert hidden.shape[2:] == x.shape[2:]
    return run(activation(hidden), two.second, Geometry(behind, groups=groups), two.second_bias)


@pytest.mark.parametrize("hidden", [4, 5, 12, 13])
def test_base_and_pairs_are_exact_at_same_size_borders_with_any_bias(hidden):
    weight, bias = normal(4, 3, 3, 3), normal(4)
    free = normal(4 + hidden % 2, seed=2)
    ask = {"kernels": (THREE,) * 2, "draw": Draw(0, "p")}
    two = base_and_pairs(weight, hidden=hidden, bias=bias, free=free, **ask)
    assert two.hidden == hidden and (hidden > 5) == (two.first_bias.numel() > free.numel())
    x = normal(2, 3, 7, 8)
    assert change(ran(x, two), run(x, weight, Geometry(ONE), bias)) < 1e-12
    assert two.first.all() and density(two.second) >= 1 / 9


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_antisymmetric_pairs_pass_a_linear_layer_through_an_activation(name):
    activation, kappa = ACTIVATIONS[name]
    weight, bias = normal(4, 3, 3, 3), normal(4)
    ask = {"kernels": (THREE,) * 2, "draw": Draw(0, "p")}
    two = base_and_pairs(weight, hidden=14, kappa=kappa, bias=bias, free=normal(4), **ask)
    x = normal(2, 3, 7, 8)
    tolerance = 1e-8 if name == "softplus" else 1e-12  # torch cuts softplus off at 20
    assert change(ran(x, two, activation), run(x, weight, Geometry(ONE), bias)) < tolerance


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_solved_dense_pair_passes_through_an_activation_without_inner_padding(name):
    activation, kappa = ACTIVATIONS[name]
    weight, bias = normal(4, 3, 3, 3), normal(4)
    two = factored(weight, hidden=12, kernels=(THREE,) * 2, draw=Draw(0, "p"))
    two = antisymmetric(two.biased(bias, normal(12)), kappa)
    before, behind = two.paddings(ONE)
    x = normal(2, 3, 7, 8)
    hidden = activation(run(x, two.first, Geometry(before), two.first_bias))
    new = run(hidden, two.second, Geometry(behind), two.second_bias)
    assert two.first.all() and two.second.all()
    assert change(new, run(x, weight, Geometry(ONE), bias)) < (
        1e-8 if name == "softplus" else 1e-12
    )


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_partners_are_equal_and_opposite_in_every_dtype(dtype, groups):
    """So what pairs add is zero term by term, with no tolerance."""
    weight = normal(4, 3, 3, 3)
    two = base_and_pairs(
        weight, hidden=12 * groups, kernels=(THREE,) * 2, draw=Draw(0, "p"), groups=groups
    )
    base = 4 // groups
    first = two.first.to(dtype).view(groups, 12, 3, 3, 3)[:, base:]
    second = two.second.to(dtype)[:, base:]
    assert torch.equal(first[:, 0::2], first[:, 1::2]) and first.all()
    assert not (second[:, 0::2] + second[:, 1::2]).any() and second.all()


@pytest.mark.parametrize("groups", [1, 2])
def test_pairs_stay_in_their_group(groups):
    weight = normal(4, 3, 3, 3)
    ask = {"kernels": (THREE,) * 2, "groups": groups, "kappa": 1.0}
    two = base_and_pairs(weight, hidden=24, draw=Draw(0, "p"), **ask)
    x = normal(2, 3 * groups, 7, 8)
    old = run(x, weight, Geometry(ONE, groups=groups))
    assert change(ran(x, two, F.gelu, groups), old) < 1e-12


def test_a_layer_that_only_the_second_kernel_holds_has_no_free_bias_between():
    weight = normal(4, 3, 3, 3)
    ask = {"hidden": 11, "kernels": ((1, 1), THREE), "draw": Draw(0, "p")}
    two = base_and_pairs(weight, **ask)
    x = normal(2, 3, 7, 8)
    assert change(ran(x, two), run(x, weight, Geometry(ONE))) < 1e-12
    with pytest.raises(CannotPreserve, match="cannot have biases between"):
        base_and_pairs(weight, free=normal(3), **ask)


def test_more_pairs_can_be_added_to_any_two_layers():
    weight = normal(4, 3, 3, 3)
    two = factored(weight, hidden=12, kernels=(THREE,) * 2, draw=Draw(0, "p"))
    more = paired(two, 3, Draw(1, "p"), bias=normal(3))
    before, behind = more.paddings(ONE)
    x = normal(2, 3, 7, 8)
    hidden = run(x, more.first, Geometry(before), more.first_bias)
    assert (
        more.hidden == 18
        and more.first_bias[12:].tolist() == normal(3).repeat_interleave(2).tolist()
    )
    assert change(run(hidden, more.second, Geometry(behind)), run(x, weight, Geometry(ONE))) < 1e-12
    assert paired(two, 0, Draw(1, "p")) is two


def test_too_few_channels_and_kernels_are_refused_with_what_would_do():
    weight, ask = normal(4, 5, 3, 3), {"draw": Draw(0, "p")}
    with pytest.raises(CannotPreserve, match="at least 4 channels between"):
        base_and_pairs(weight, hidden=3, kernels=(THREE,) * 2, **ask)
    for hidden in (6, 9):
        with pytest.raises(CannotPreserve, match="an even number of at least 8 channels"):
            base_and_pairs(weight, hidden=hidden, kernels=(THREE,) * 2, kappa=1.0, **ask)
    with pytest.raises(CannotPreserve, match="neither kernel holds"):
        base_and_pairs(weight, hidden=8, kernels=((2, 2), (2, 2)), **ask)
