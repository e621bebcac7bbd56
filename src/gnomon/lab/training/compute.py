"""FLOPs of training, by torch's own counter, in two conventions."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gnomon.analysis.flops import counted
from gnomon.lab.data.tasks import mean_loss
from gnomon.lab.training.starts import gpus

CONVOLUTIONS = ("convolution", "_convolution", "cudnn_convolution")


@dataclass(frozen=True)
class Cost:
    """FLOPs of one training step; a multiply-add counts 2.

    full:   forward and backward, all operations, the whole batch: what training takes.
    papers: the convention of the R2R papers' axes: forward, convolutions only, one example; added
            once per step.
    """

    full: int
    papers: int

    def __mul__(self, steps: int) -> Cost:
        return Cost(self.full * steps, self.papers * steps)

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.full + other.full, self.papers + other.papers)


def step_cost(model: nn.Module, inputs: Tensor, labels: Tensor) -> Cost:
    """Return what one step takes in both conventions, counted on a copy of the model."""
    return Cost(step_flops(model, inputs, labels), convolution_flops(model, inputs[:1]))


def step_flops(model: nn.Module, inputs: Tensor, labels: Tensor) -> int:
    """Return the FLOPs of one step, forward and backward (a multiply-add counts 2), on a copy."""
    twin = copy.deepcopy(model).train()
    with torch.random.fork_rng(gpus()), counted() as counter:
        torch.autograd.backward(mean_loss(twin(inputs), labels))
    return int(counter.get_total_flops())


def convolution_flops(model: nn.Module, inputs: Tensor) -> int:
    """Return the FLOPs of the convolutions of one forward pass in eval mode, on a copy."""
    twin = copy.deepcopy(model).eval()
    drawing = torch.random.fork_rng(gpus())
    with drawing, torch.no_grad(), counted() as counter:
        twin(inputs)
    counts = counter.get_flop_counts()["Global"]
    return int(sum(n for op, n in counts.items() if _name(op) in CONVOLUTIONS))


def _name(operation: object) -> str:
    return str(operation).rpartition(".")[2]
