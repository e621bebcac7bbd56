"""Two layers as the one that they compute, against running both."""

import pytest
import torch
from two_layers import change, normal, run

from gnomon.decompose import Geometry, compose, embedded, second_bias, ungrouped

CASES = {
    "linear": ((5, 3), (4, 5), Geometry(), Geometry()),
    "1d": ((5, 3, 3), (4, 5, 2), Geometry(((1, 0),)), Geometry()),
    "2d rectangular": ((5, 3, 3, 1), (4, 5, 2, 5), Geometry(((2, 1), (0, 3))), Geometry()),
    "3d": ((3, 2, 2, 1, 3), (2, 3, 1, 3, 2), Geometry(), Geometry()),
    "dilated": ((5, 3, 3, 3), (4, 5, 3, 3), Geometry((), (), (2, 3)), Geometry((), (), (2, 3))),
    "strided behind": ((5, 3, 3, 3), (4, 5, 3, 3), Geometry(), Geometry((), (2, 3))),
    "strided before": ((5, 3, 3, 3), (4, 5, 1, 1), Geometry((), (2, 2)), Geometry()),
    "all": ((5, 3, 3), (4, 5, 2), Geometry(((2, 2),), (3,), (2,)), Geometry((), (2,), (2,))),
    "grouped": ((6, 2, 3), (4, 3, 3), Geometry(groups=2), Geometry(groups=2)),
    "unlike groups": ((6, 2, 3), (3, 2, 3), Geometry(groups=2), Geometry(groups=3)),
    "one group": ((6, 2, 3), (4, 6, 1), Geometry(groups=2), Geometry()),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_composed_layer_computes_what_both_do(case):
    one, two, before, behind = case
    first, second = normal(*one), normal(*two, seed=1)
    weight, geometry = compose(first, second, before, behind)
    x = normal(2, one[1] * before.groups, *[17] * (len(one) - 2), seed=2)
    both = run(run(x, first, before), second, behind)
    single = run(x, weight, geometry)
    both = both[tuple(slice(size) for size in single.shape)]
    assert change(single, both) < 1e-13


def test_equal_groups_stay_groups_and_unequal_ones_are_filled_up():
    first, second = normal(6, 2, 3), normal(4, 3, 3)
    weight, geometry = compose(first, second, Geometry(groups=2), Geometry(groups=2))
    assert weight.shape == (4, 2, 5) and geometry.groups == 2
    weight, geometry = compose(first, normal(3, 2, 1), Geometry(groups=2), Geometry(groups=3))
    assert weight.shape == (3, 4, 3) and geometry.groups == 1


def test_dilations_keep_their_common_step():
    first, second = normal(2, 2, 3), normal(2, 2, 2)
    weight, geometry = compose(first, second, Geometry((), (), (4,)), Geometry((), (2,), (2,)))
    assert geometry.dilation == (2,) and geometry.stride == (2,)
    assert weight.shape[2:] == (2 * 2 + 1 + 1,)


def test_lower_precision_is_composed_in_float64():
    weight, _ = compose(normal(3, 2, 3).bfloat16(), normal(2, 3, 3).float())
    assert weight.dtype == torch.float64


def test_a_geometry_of_other_dimensions_is_refused():
    with pytest.raises(ValueError, match="2 spatial dimensions"):
        compose(normal(2, 2, 3, 3), normal(2, 2, 3, 3), Geometry(((1, 1),)))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("taps", [(), (3,), (2, 3)])
def test_the_second_bias_makes_up_for_the_first(taps, groups):
    second, first_bias = normal(4, 6 // groups, *taps), normal(6, seed=1)
    bias = normal(4, seed=2)
    own = second_bias(bias, second, first_bias, groups)
    x = first_bias.view(1, -1, *[1] * len(taps)).expand(1, 6, *[9] * len(taps))
    if taps:
        out = run(x, second, Geometry(groups=groups), own)
    else:
        out = run(x, ungrouped(second, groups), None, own)
    wanted = bias.view(1, -1, *[1] * len(taps)).expand_as(out)
    assert change(out, wanted) < 1e-13


def test_embedding_puts_the_first_tap_at_its_place():
    larger = embedded(torch.ones(1, 1, 2, 1), (4, 3), (1, 2))
    assert larger.nonzero().tolist() == [[0, 0, 1, 2], [0, 0, 2, 2]]
