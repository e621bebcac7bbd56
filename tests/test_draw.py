"""Draws: keyed streams that nothing else moves."""

import math

import pytest
import torch

from gnomon.draw import Draw


def test_a_stream_depends_on_seed_name_and_dimension_only():
    first = Draw(0, "conv.weight", 1).weights((5, 7))
    torch.manual_seed(99)
    torch.rand(3)
    assert torch.equal(first, Draw(0, "conv.weight", 1).weights((5, 7)))
    for other in (Draw(1, "conv.weight", 1), Draw(0, "conv.weights", 1), Draw(0, "conv.weight", 0)):
        assert not torch.equal(first, other.weights((5, 7)))


def test_the_global_generator_is_never_touched():
    before = torch.get_rng_state()
    draw = Draw(3, "x")
    draw.weights((10,)), draw.below(4, (10,)), draw.permutation(9)
    assert torch.equal(before, torch.get_rng_state())


def test_these_numbers_never_change():
    """Plans are stored with a seed: the same seed must give these for ever."""
    draw = Draw(0, "layer.weight", 1, std=0.5)
    assert draw.weights((3,)).tolist() == pytest.approx(
        [-0.21990529500935974, 0.5754728968940879, 0.7899838463379876], abs=1e-15
    )
    assert draw.below(100, (4,)).tolist() == [76, 20, 49, 92]
    assert draw.permutation(5).tolist() == [2, 1, 0, 3, 4]


@pytest.mark.parametrize("std", [0.02, 1.0, 3.0])
def test_weights_have_exactly_this_spread(std):
    values = Draw(0, "x", 0, std).weights((200_000,))
    reach = std * math.sqrt(3)
    assert values.dtype == torch.float64
    assert float(values.std()) == pytest.approx(std, rel=0.01)
    assert float(values.mean()) == pytest.approx(0, abs=0.01 * std)
    assert -reach <= float(values.min()) < -0.99 * reach
    assert 0.99 * reach < float(values.max()) <= reach


def test_integers_and_permutations_cover_their_range():
    draw = Draw(0, "x")
    assert set(draw.below(4, (200,)).tolist()) == {0, 1, 2, 3}
    assert sorted(draw.permutation(20).tolist()) == list(range(20))


def test_the_time_of_drawing_is_counted():
    draw = Draw(0, "x")
    assert draw.seconds == 0
    draw.weights((1000,))
    assert draw.seconds > 0
