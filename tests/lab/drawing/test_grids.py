"""Pictures of weights: every filter stands in its place, and files are drawn."""

import math

import numpy as np
import pytest
import torch

from gnomon.lab.drawing.grids import Filters, filter_grids, histogram_panels, mosaic, share_bars
from gnomon.lab.errors import LabError
from gnomon.lab.training.probes import histogram


def test_old_filters_stand_above_new_ones_and_grey_is_zero():
    kernels = torch.zeros(10, 3, 2, 2)
    kernels[0], kernels[8, 0] = -1, 1
    image = mosaic(Filters("R2R", kernels, old=8))
    assert image.shape == (2 + 3 + 2, 8 * 2 + 7, 3)
    assert (image[:2, :2] == 0).all() and (image[:2, 3:5] == 0.5).all()
    assert (image[5:, :2] == [1, 0.5, 0.5]).all()
    assert (image[:, 2] == 1).all() and (image[2:5] == 1).all()  # gaps are white
    assert (image[5:, 6:] == 1).all()  # as is what the new ones do not fill


def test_filters_of_one_channel_are_grey():
    image = mosaic(Filters("R2R", torch.randn(4, 1, 3, 3), old=4))
    assert image.shape == (3, 8 * 4 - 1, 3) and np.ptp(image, axis=2).max() == 0


def test_filters_that_read_features_cannot_be_shown():
    with pytest.raises(LabError, match="one channel or three"):
        Filters("R2R", torch.randn(4, 16, 3, 3), old=4)


def test_pictures_are_drawn(tmp_path):
    filters = Filters("R2R", torch.randn(32, 3, 7, 7), 16)
    filter_grids([[filters]], tmp_path / "filters.png", title="Filters", rows=["at first"])
    found = {"R2R": histogram("w", torch.randn(99)), "Net2Net": histogram("w", torch.eye(9))}
    histogram_panels(found, tmp_path / "histograms.png", title="Weights")
    share_bars({"a": [0.1, math.nan]}, ["x", "y"], tmp_path / "shares.png", title="Shares")
    for name in ("filters", "histograms", "shares"):
        content = (tmp_path / f"{name}.png").read_bytes()
        assert content.startswith(b"\x89PNG") and len(content) > 5_000
