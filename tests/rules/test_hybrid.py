"""Hybrid: twins that start near an old channel and share their noise."""

import pytest
import torch

from gnomon.draw import Draw
from gnomon.rules import R2R, Hybrid


def test_twins_start_near_an_old_channel():
    rows = torch.arange(12, dtype=torch.float64).reshape(1, 4, 3)
    e = Hybrid().embed(4, 4, frozenset(), Draw(0, "x"))
    assert torch.equal(e.source, R2R().embed(4, 4, frozenset(), Draw(0, "x")).source)
    made = Hybrid(noise=0.1).fresh(rows, e, Draw(0, "x", 0, 2.0))
    away = (made - rows[:, e.near]).abs()
    assert 0 < float(away.max()) <= 0.1 * 2.0 * 3**0.5


def test_without_noise_they_start_as_copies():
    rows = torch.arange(12, dtype=torch.float64).reshape(1, 4, 3)
    e = Hybrid().embed(4, 2, frozenset(), Draw(0, "x"))
    assert torch.equal(Hybrid(noise=0.0).fresh(rows, e, Draw(0, "x")), rows[:, e.near])


@pytest.mark.parametrize("noise", [-0.1, float("inf"), float("nan")])
def test_noise_must_be_finite_and_not_negative(noise):
    with pytest.raises(ValueError, match="noise"):
        Hybrid(noise=noise)
