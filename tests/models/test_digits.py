"""DigitsNet: shapes and the doubling of its widths."""

import torch

from gnomon.models import DigitsNet


def test_width_doubles_where_the_resolution_is_halved():
    model = DigitsNet(3)
    assert model.stage1(model.stem(torch.zeros(2, 1, 8, 8))).shape == (2, 3, 8, 8)
    assert model.stage2(torch.zeros(2, 3, 8, 8)).shape == (2, 6, 4, 4)
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
