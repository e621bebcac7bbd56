"""The published algorithms do what they do, and say how far they got."""

import math

import pytest
import torch
from two_layers import normal

from gnomon.decompose import (
    Shapes,
    alternating,
    case,
    densities,
    density,
    factored,
    mismatch,
    shrinking_loop,
    shrunk,
)
from gnomon.draw import Draw

KERNELS = ((3, 3), (3, 3))


def published(algorithm, hidden, weight, **more):
    return algorithm(weight, hidden=hidden, kernels=KERNELS, draw=Draw(0, "a"), **more)


def test_alternating_reaches_the_layer_in_one_step_where_the_condition_holds():
    found = published(alternating, 32, normal(8, 8, 3, 3))
    assert found.iterations == 1 and found.residual < 1e-13


def test_alternating_stalls_below_the_condition_and_says_so():
    found = published(alternating, 16, normal(8, 8, 3, 3), iterations=20)
    assert found.iterations == 20 == len(found.history)
    assert list(found.history) == sorted(found.history, reverse=True)
    assert 1e-4 < found.residual < 0.1 < found.history[0]
    assert found.residual == pytest.approx(
        mismatch(normal(8, 8, 3, 3), found.first, found.second, (1, 1))
    )


def test_no_kernel_makes_up_for_rank():
    """Eckart and Young: half the channels leave at least the smaller half of the spectrum."""
    weight = normal(16, 16, 1, 1)
    values = torch.linalg.svdvals(weight[:, :, 0, 0])
    bound = float(values[8:].norm() / values.norm())
    found = published(shrinking_loop, 8, weight)
    assert min(found.history) > bound > 0.2
    assert published(alternating, 8, weight, iterations=30).residual > 0.99 * bound


@pytest.mark.parametrize("hidden", [4, 8, 16])
def test_the_loop_ends_where_counting_says(hidden):
    split = Shapes(4, 4, hidden, (3, 3), *KERNELS)
    found = published(shrinking_loop, hidden, normal(4, 4, 3, 3))
    taps = shrunk(split)
    assert found.residual < 1e-10 and found.iterations == 3 - taps[0] + 1
    assert density(found.second) == math.prod(taps) / 9
    place = tuple((3 - r) // 2 + (r - 1) // 2 for r in taps)
    assert mismatch(normal(4, 4, 3, 3), found.first, found.second, place) < 1e-10
    two = factored(normal(4, 4, 3, 3), hidden=hidden, kernels=KERNELS, draw=Draw(0, "a"))
    assert density(two.second) == density(found.second) == densities(split).solved


def test_the_direct_solution_is_as_near_as_least_squares():
    weight = normal(8, 8, 3, 3)
    two = factored(weight, hidden=32, kernels=KERNELS, draw=Draw(0, "a"))
    assert two.residual < 10 * published(alternating, 32, weight).residual


def test_densities_are_ordered_as_in_the_figure():
    """Three channels, 3 x 3 taps: 3, 9 and 81 of 81 entries."""
    shares = densities(Shapes(3, 3, 3, (3, 3), *KERNELS))
    assert [round(81 * s) for s in (shares.identity, shares.worst, shares.best)] == [3, 9, 81]
    wide = densities(Shapes(8, 8, 32, (3, 3), *KERNELS))
    assert wide.solved == 1.0 and wide.pairs == (8 / 9 + 24) / 32
    assert math.isnan(densities(Shapes(8, 8, 4, (3, 3), *KERNELS)).solved)
    assert case(Shapes(8, 8, 8, (3, 3), *KERNELS)).filled == 1 / 9
