"""Two plain networks and a batch for tests of bad input."""

import torch
from torch import nn

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def deep() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*small(), nn.ReLU(), nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
