"""Starts: a fresh start of any architecture, and seeds that leave no traces."""

import copy

import pytest
import torch
from torch import nn

from gnomon.lab.errors import LabError
from gnomon.lab.training.starts import fresh, seeded
from gnomon.models import DigitsNet


def test_fresh_redraws_everything_and_keeps_the_original():
    model = DigitsNet(2)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(7)
    twin = fresh(model, seed=0)
    assert all((tensor == 7).all() for tensor in model.state_dict().values())
    assert not any((tensor == 7).all() for tensor in twin.state_dict().values())
    again = fresh(copy.deepcopy(model), seed=0).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in twin.state_dict().items())


def test_fresh_draws_what_the_constructor_draws():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        built = DigitsNet(2).state_dict()
    twin = fresh(DigitsNet(2), seed=3).state_dict()
    assert all(torch.equal(twin[name], built[name]) for name in built)


def test_fresh_refuses_a_module_that_cannot_draw_for_itself():
    model = nn.Module()
    model.table = nn.Parameter(torch.zeros(3))
    with pytest.raises(LabError, match="no reset_parameters"):
        fresh(model, seed=0)


def test_fresh_leaves_the_global_generator_alone():
    model, before = DigitsNet(2), torch.get_rng_state()
    fresh(model, seed=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_seed_decides_inside_the_block_and_leaves_no_traces_also_after_an_error():
    before = torch.get_rng_state()
    drawn = []
    for _ in range(2):
        with seeded(4):
            drawn.append(torch.rand(3))
    assert torch.equal(*drawn)
    with pytest.raises(KeyError), seeded(5):
        torch.rand(3)
        raise KeyError
    assert torch.equal(torch.get_rng_state(), before)
