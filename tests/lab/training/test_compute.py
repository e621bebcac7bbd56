"""FLOPs: by hand, as the papers count them, and without traces."""

import copy
from fractions import Fraction

import pytest
import torch
from torch import nn

from gnomon.lab.training.compute import Cost, convolution_flops, step_cost, step_flops
from gnomon.models import ResNetCifar10, ResNetCifar18


class Noisy(nn.Module):
    """Draws in training and in eval mode, and keeps running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)
        self.head, self.dropout = nn.Linear(3 * 16, 2), nn.Dropout(0.5)

    def forward(self, x):
        x = self.dropout(self.norm(self.conv(x))) + torch.rand(())
        return self.head(x.flatten(1))


def batch(count=5):
    images = torch.randn(count, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return images, torch.arange(count) % 2


# ../shared/spec/experiments.md, section 1: printed to four digits.
@pytest.mark.parametrize(
    "build, width, printed",
    [
        (ResNetCifar18, Fraction(1, 8), 1.749e6),
        (ResNetCifar18, Fraction(3, 16), 3.484e6),
        (ResNetCifar10, Fraction(3, 16), 2.157e6),
    ],
)
def test_the_papers_count_is_the_one_that_they_print(build, width, printed):
    model = build(width)
    images = torch.zeros(3, 3, 32, 32)
    cost = step_cost(model, images, torch.zeros(3).long())
    assert f"{cost.papers:.3e}" == f"{printed:.3e}"
    assert cost.papers == convolution_flops(model, images[:1])


def test_step_flops_are_those_counted_by_hand():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 2))
    forward = 2 * 5 * (16 * 6 + 6 * 2)
    backward = 2 * 5 * (16 * 6 + 2 * 6 * 2)  # no gradient flows into the images
    assert step_flops(model, *batch()) == forward + backward
    assert step_cost(model, *batch()) == Cost(forward + backward, 0)


def test_convolutions_are_counted_by_hand_and_nothing_else_is():
    images, labels = batch()
    conv, head = 2 * 16 * 3 * 9, 2 * 48 * 2
    cost = step_cost(Noisy(), images, labels)
    assert cost.papers == conv
    assert cost.full == 5 * (2 * conv + 3 * head)  # forward, weights; no gradient of the images


def test_costs_add_up():
    assert Cost(3, 1) * 4 + Cost(1, 2) == Cost(13, 6)


@pytest.mark.parametrize("training", [True, False])
def test_counting_leaves_the_model_and_the_global_generator_as_they_were(training):
    model = Noisy().train(training)
    images, labels = batch()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    step_cost(model, images, labels)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(module.training == training for module in model.modules())
