"""Which entries of a model's parameters learn within its first two steps."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def reach_of_two_steps(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Per parameter the largest absolute gradient of each entry, over two steps of SGD."""
    steps = torch.optim.SGD(model.parameters(), lr=0.05)
    reach: dict[str, Tensor] = {}
    for _ in range(2):
        steps.zero_grad()
        (model(x) ** 2).sum().backward()
        for name, p in model.named_parameters():
            reach[name] = torch.maximum(reach.get(name, p.grad.abs()), p.grad.abs())
        steps.step()
    return reach
