"""ResNetCifar against the counts of spec'd papers: parameters and forward convolution FLOPs."""

from fractions import Fraction

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from gnomon.models import ResNetCifar10, ResNetCifar18

PAPER = [
    (ResNetCifar18, Fraction(1, 8), 23_794, 1.749e6),
    (ResNetCifar18, Fraction(3, 16), 52_198, 3.484e6),
    (ResNetCifar10, Fraction(3, 16), 25_990, 2.157e6),
]


@pytest.mark.parametrize(("network", "r", "parameters", "flops"), PAPER)
def test_parameters_and_convolution_flops_are_those_of_the_paper(network, r, parameters, flops):
    model = network(r).eval()
    assert sum(p.numel() for p in model.parameters()) == parameters
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 32, 32))
    counted = counter.get_flop_counts()["Global"][torch.ops.aten.convolution]
    assert counted == pytest.approx(flops, rel=5e-4)


@pytest.mark.parametrize(("r", "narrow", "wide"), [(0.1, 6, 12), (Fraction(3, 16), 12, 24)])
def test_widths_are_rounded_down(r, narrow, wide):
    model = ResNetCifar18(r)
    assert model.stem.conv.out_channels == narrow
    assert model.head.in_features == wide


def test_a_float_ratio_equals_its_fraction():
    assert ResNetCifar10(0.1875).head.in_features == ResNetCifar10(Fraction(3, 16)).head.in_features


def test_logits_have_one_column_per_class_for_any_channels():
    model = ResNetCifar18(0.125, classes=7, channels=1)
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 7)


def test_a_ratio_that_leaves_no_channel_is_refused():
    with pytest.raises(ValueError, match="leaves no channel"):
        ResNetCifar18(0.01)
