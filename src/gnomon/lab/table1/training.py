"""Whether new channels that start alike part by themselves when the network is trained."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from gnomon.lab.table1.method import ADDED, Finding, Method, shown
from gnomon.lab.table1.networks import EXACT, SHAPES, Small, inputs_of, outputs

STEPS = 200


def needs_no_noise(method: Method) -> Finding:
    """How far channels that start alike are apart after training by SGD and by Adam."""
    found: dict[str, tuple[float, float]] = {}
    for label, shape in SHAPES.items():
        wider = method.widen(Small(nn.ReLU, shape), ADDED)
        alike = list(_alike(wider.write.weight))
        if alike:
            sgd, adam = (_trained(wider, shape, how) for how in (torch.optim.SGD, torch.optim.Adam))
            found[label] = _apart(sgd, alike), _apart(adam, alike)
    if not found:
        return Finding(1, "no new channels start alike")
    equal = [label for label, apart in found.items() if min(apart) <= EXACT]
    if equal:
        where = "" if len(equal) == len(SHAPES) else f"{equal[0]}: "
        return Finding(0, f"{where}alike at the start, alike for ever")
    sgd_least, adam_least = (min(values) for values in zip(*found.values(), strict=True))
    return Finding(1, f"they part: SGD {shown(sgd_least)}, Adam {shown(adam_least)}")


def _alike(rows: Tensor) -> Iterator[list[int]]:
    """Channels with equal rows, class by class."""
    _, number = torch.unique(rows.detach(), dim=0, return_inverse=True)
    for i in range(int(number.max()) + 1):
        members = (number == i).nonzero().squeeze(1).tolist()
        if len(members) > 1:
            yield members


def _apart(rows: Tensor, alike: list[list[int]]) -> float:
    """The smallest distance of two rows of a class, relative to the largest weight."""
    pairs = (pair for members in alike for pair in itertools.combinations(members, 2))
    least = min(float((rows[i] - rows[j]).abs().max()) for i, j in pairs)
    return least / float(rows.abs().max())


def _trained(
    net: Small, shape: tuple[int, int], how: type[torch.optim.SGD] | type[torch.optim.Adam]
) -> Tensor:
    """The writers' rows after some steps of regression on what another network gives."""
    student, x = copy.deepcopy(net), inputs_of(net)
    y = outputs(Small(nn.Tanh, shape, seed=9), x)
    optimizer = how(student.parameters(), lr=0.01)
    for _ in range(STEPS):
        optimizer.zero_grad()
        (student(x) - y).square().mean().backward()
        optimizer.step()
    return student.write.weight.detach()
