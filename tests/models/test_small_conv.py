"""SmallConv: the definition of paper 000, counted by hand."""

import torch

from gnomon.models import SmallConv


def test_parameters_are_those_of_the_definition():
    convolution = 16 * 3 * 7 * 7 + 16
    hidden = 16 * 16 * 16 * 150 + 150
    head = 150 * 10 + 10
    assert sum(p.numel() for p in SmallConv().parameters()) == convolution + hidden + head


def test_it_follows_the_size_of_the_images():
    model = SmallConv(4, 20, classes=3, channels=1, size=28)
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 3)
