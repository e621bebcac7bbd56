"""Arms: the comparison within a budget, and a fresh start of any architecture."""

import copy
import math

import pytest
import torch
from torch import nn

pytest.importorskip("lightning")

from gnomon.lab.arms import Arm, fresh
from gnomon.lab.errors import LabError
from gnomon.lab.train import Measured
from gnomon.models import DigitsNet


def test_equal_compute_takes_the_last_epoch_within_the_budget_not_the_best():
    points = [Measured(i, i, math.nan, a, 1, 10 * i, 0.0) for i, a in enumerate([0.1, 0.9, 0.5])]
    arm = Arm("arm", nn.Identity(), points, (), 0.0)
    assert arm.within(20).accuracy == 0.5
    assert arm.within(19).accuracy == 0.9


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
