"""He's start: the spread that it promises, on convolutions only."""

import pytest
import torch
from torch import nn

from gnomon.models import kaiming


@pytest.mark.parametrize(("by", "fan"), [("fan_in", 16), ("fan_out", 64)])
def test_convolutions_get_the_spread_of_their_fan(by, fan):
    model = nn.Sequential(nn.Conv2d(16, 64, 3), nn.Flatten(), nn.Linear(64, 10))
    head = model[2].weight.clone()
    assert kaiming(model, by) is model
    assert model[0].weight.std().item() == pytest.approx((2 / (9 * fan)) ** 0.5, rel=0.02)
    assert not model[0].bias.any() and torch.equal(model[2].weight, head)
