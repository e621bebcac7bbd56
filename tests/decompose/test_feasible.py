"""The conditions that hold: max and not min, rank and not only counting."""

from dataclasses import replace
from math import isqrt

import pytest
import torch
from two_layers import normal

from gnomon.decompose import (
    Shapes,
    case,
    feasible,
    matrix,
    shrunk,
    smallest_kernels,
    smallest_width,
)

THREE = (3, 3)


def shapes(out, into, hidden, kernel=THREE, first=THREE, second=THREE):
    return Shapes(out, into, hidden, kernel, first, second)


def test_one_side_with_enough_unknowns_is_enough():
    """Equation 7 says min; here F1 has 32 x 9 unknowns for 8 x 25 equations, F2 has too few."""
    assert case(shapes(8, 64, 32)).solved == "first"
    assert case(shapes(64, 8, 32)).solved == "second"


def test_counting_does_not_give_the_rank():
    """Koszul: 27 unknowns, 25 equations, rank 24, for every choice of the other layer."""
    assert torch.linalg.matrix_rank(matrix(normal(1, 3, 3, 3), THREE)) == 24
    assert shrunk(shapes(1, 1, 3)) == (2, 2)
    assert shrunk(shapes(1, 1, 4)) == (3, 3)
    assert torch.linalg.matrix_rank(matrix(normal(1, 4, 3, 3), THREE)) == 25


def test_a_hidden_width_below_both_ends_is_never_feasible():
    """1152 parameters are more than the 256 of the layer, and yet rank 8 is not rank 16."""
    narrow = shapes(16, 16, 8, (1, 1))
    assert not feasible(narrow)
    assert smallest_width(narrow) == 16 and smallest_kernels(narrow) is None


@pytest.mark.parametrize("taps", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("more", [1, 2, 3, 4, 6, 8])
def test_the_loop_has_the_closed_form_of_the_square_root(taps, more):
    """r = min(K2, floor(K1 sqrt(L / O)) - K1 + 1)"""
    split = shapes(8, 8, 8 * more, (taps, taps), (taps, taps), (9, 9))
    r = min(9, isqrt(taps * taps * more) - taps + 1)
    assert shrunk(split) == (r, r)


def test_four_times_the_channels_make_two_kernels_of_three_dense():
    assert [shrunk(shapes(8, 8, 8 * m)) for m in (1, 2, 4)] == [(1, 1), (2, 2), (3, 3)]


SPLITS = [
    shapes(4, 4, 1),
    shapes(4, 6, 5, (3, 3), (3, 3), (1, 1)),
    shapes(4, 6, 3, (3, 3), (1, 1), (3, 3)),
    shapes(2, 3, 1, (5,), (3,), (3,)),
    shapes(3, 2, 1, (3, 1), (2, 1), (2, 2)),
    shapes(3, 5, 1, (), (), ()),
    shapes(1, 1, 1, (5, 5), (3, 3), (3, 3)),
]


@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_the_smallest_width_is_feasible_and_the_next_smaller_is_not(split):
    width = smallest_width(split)
    assert feasible(replace(split, hidden=width))
    assert width == 1 or not feasible(replace(split, hidden=width - 1))


def test_the_smallest_kernels_are_feasible():
    split = shapes(4, 4, 4, (5, 5), (3, 3), (3, 3))
    assert not feasible(split)
    first, second = smallest_kernels(split)
    assert feasible(replace(split, first=first, second=second))
    assert (first, second) == ((5, 5), (3, 3))
    assert smallest_kernels(shapes(4, 9, 4, (5, 5), (3, 3), (3, 3))) == ((5, 5), (3, 3))
    assert smallest_kernels(shapes(9, 4, 4, (5, 5), (3, 3), (3, 3))) == ((3, 3), (5, 5))


def test_kernels_too_small_for_the_layer_have_no_width():
    assert smallest_width(shapes(2, 2, 4, (5, 5), (2, 2), (2, 2))) is None


def test_mixed_dimensions_and_empty_sizes_are_refused():
    with pytest.raises(ValueError, match="different numbers"):
        shapes(2, 2, 2, (3,))
    with pytest.raises(ValueError, match="positive"):
        shapes(2, 2, 0)
