"""Residual: what it adds, what it leaves out, and that it is an ordinary module."""

import copy

import torch
from torch import nn

from gnomon.blocks import Residual


def test_a_residual_adds_the_body_to_the_shortcut_and_then_activates():
    body, shortcut = nn.Linear(3, 5), nn.Linear(3, 5)
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    expected = torch.relu(shortcut(x) + body(x))
    assert torch.equal(Residual(body, shortcut, nn.ReLU())(x), expected)
    assert (expected == 0).any(), "the activation had nothing to do"


def test_without_shortcut_and_activation_x_itself_is_added():
    body = nn.Linear(3, 3)
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Residual(body)(x), x + body(x))


def test_an_empty_sequential_is_kept_as_a_shortcut():
    shortcut = nn.Sequential()
    assert Residual(nn.Linear(3, 3), shortcut).shortcut is shortcut


def test_a_residual_copies_and_names_its_parameters_plainly():
    block = Residual(nn.Linear(2, 2), nn.Linear(2, 2))
    names = ["body.weight", "body.bias", "shortcut.weight", "shortcut.bias"]
    assert list(copy.deepcopy(block).state_dict()) == names
