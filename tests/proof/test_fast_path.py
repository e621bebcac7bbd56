"""Layers of torch that read other modules' weights in eval mode: seen, or refused."""

import pytest
import torch

import gnomon as gn
from toys import TOYS
from untouched import refused

FACTOR = gn.Factor("1.linear1", mid=8)


@pytest.fixture
def encoder():
    toy = TOYS["encoder"]
    usual = torch.backends.mha.get_fastpath_enabled()
    yield toy.model(), toy.example()
    torch.backends.mha.set_fastpath_enabled(usual)


def test_a_layer_whose_weight_the_fast_path_reads_is_not_replaced(encoder):
    model, inputs = encoder
    torch.backends.mha.set_fastpath_enabled(True)
    with refused(gn.Unsupported, "fast path", "has no attribute 'weight'", of=model):
        gn.Grower(model, inputs).grow(FACTOR)
    assert torch.backends.mha.get_fastpath_enabled()


def test_without_the_fast_path_it_is(encoder):
    model, inputs = encoder
    torch.backends.mha.set_fastpath_enabled(False)
    assert gn.Grower(model, inputs).grow(FACTOR).largest_change <= 1e-11
