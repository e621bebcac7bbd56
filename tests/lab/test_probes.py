"""Histograms of weights: all entries are counted, zeros by themselves."""

import pytest
import torch
from torch import nn

import gnomon as gn
from gnomon.lab.errors import LabError
from gnomon.lab.probes import weight_histogram


def test_every_entry_is_in_a_bin():
    found = weight_histogram(nn.Linear(7, 5), "weight", bins=9)
    assert sum(found.counts) == 35 and len(found.edges) == 10 and found.zeros == 0


def test_identity_layers_are_zeros_and_factors_are_not():
    torch.manual_seed(0)
    x = torch.randn(4, 6)
    identity, factor = nn.Sequential(nn.Linear(6, 8), nn.ReLU()), nn.Sequential(nn.Linear(6, 8))
    gn.Grower(identity, x).grow(gn.Deepen("1", gn.Net2Net()))
    gn.Grower(factor, x).grow(gn.Factor("0"))
    assert weight_histogram(identity, "2.layer.weight").zeros == 8 * 7
    assert weight_histogram(factor, "0.layer2.weight").zeros == 0


def test_a_name_that_is_not_there_is_an_error():
    with pytest.raises(LabError, match="no parameter 'x'"):
        weight_histogram(nn.Linear(2, 2), "x")
