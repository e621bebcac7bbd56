"""The cifar_ddd networks: the count of Caffe's cifar10_quick, and other activations."""

import pytest
import torch
from torch import nn

from gnomon.models import CifarQuick


def test_cifar_111_is_cifar10_quick():
    assert sum(p.numel() for p in CifarQuick().parameters()) == 145_578


def test_every_convolution_gets_the_activation_that_is_asked_for():
    groups = [[(5, 4), (1, 4)], [(5, 4)], [(5, 8)]]
    model = CifarQuick(groups, activation=nn.Tanh, size=16)
    found = [m for m in model.modules() if isinstance(m, nn.Tanh)]
    assert len(found) == len({id(m) for m in found}) == 4
    assert not any(isinstance(m, nn.ReLU) for m in model.modules())
    assert model(torch.zeros(2, 3, 16, 16)).shape == (2, 10)


def test_other_than_three_groups_are_refused():
    with pytest.raises(ValueError, match="three groups"):
        CifarQuick([[(5, 4)]])
