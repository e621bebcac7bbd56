"""Training of a hierarchical ensemble's top."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import nn
from torch.optim import Optimizer

from gnomon.evolution.chance import Chance, drawn_from
from gnomon.evolution.ensemble.hierarchical import Hierarchical
from gnomon.evolution.errors import Diverged
from gnomon.evolution.joint.problem import Problem, answered

Maker = Callable[[Iterable[nn.Parameter]], Optimizer]
# Source: Painter, Deep Neuroevolution, published code; there for 5,000 batches of 32.
ADAM: Maker = partial(torch.optim.Adam, lr=1e-5)


def fit(
    ensemble: Hierarchical,
    problem: Problem,
    *,
    steps: int = 5000,
    optimizer: Maker = ADAM,
    seed: int = 0,
) -> float:
    """Train the top on batches of the problem; the members stay bit for bit what they are.

    Returns the mean loss. The seed decides which batches; the same one gives the same top.
    Raises Diverged.
    """
    draw, stepper = Chance(seed, "top", "batches").generator, optimizer(ensemble.top.parameters())
    weight = next(ensemble.top.parameters())
    total = torch.zeros((), dtype=torch.float64, device="cpu")
    losses = total.to(weight.device)
    ensemble.train()
    with drawn_from(seed, "top", "layers", devices=_gpu(weight)):
        for _ in range(steps):
            inputs, targets = problem.batch(draw)
            stepper.zero_grad()
            loss = problem.loss(answered(ensemble, inputs), targets)
            torch.autograd.backward(loss)
            stepper.step()
            losses += loss.detach()
    stepper.zero_grad()
    ensemble.eval()
    mean = float(losses) / max(1, steps)
    if not abs(mean) < float("inf"):
        raise Diverged(
            f"the top of the ensemble cannot be trained: its mean loss is {mean}. Use a lower "
            f"learning rate"
        )
    return mean


def _gpu(weight: nn.Parameter) -> list[int]:
    return [weight.device.index or 0] if weight.is_cuda else []
