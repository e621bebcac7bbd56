"""Which parameters a method is free to choose, and which it leaves as they are."""

from __future__ import annotations

import itertools
from collections import defaultdict
from contextlib import suppress
from fractions import Fraction

import torch
from torch import Tensor, nn

from gnomon.lab.table1.method import COUNTS, Finding, Method, Refused
from gnomon.lab.table1.networks import SHAPES, WIDTH, Small


def degrees_of_freedom(method: Method) -> Finding:
    """New parameters that can be chosen: the rank of what different draws give, per parameter."""
    free = {label: _freedom(method, shape) for label, shape in SHAPES.items()}
    each = ", ".join(f"{label} {part}" for label, part in free.items())
    least = min(free.values())
    return Finding(least, str(least) if len(set(free.values())) == 1 else each)


def _freedom(method: Method, shape: tuple[int, int]) -> Fraction:
    """Two channels and two more; only draws that copy the same channels are compared."""
    net = Small(nn.ReLU, shape, width=2)
    drawn: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
    for seed in itertools.count():
        origins, new = _new_parameters(net, method.widen(net, 2, seed))
        alike = drawn[origins]
        alike.append(new)
        differences = torch.stack(alike) - alike[0]
        rank = int(torch.linalg.matrix_rank(differences, rtol=1e-9))
        if len(alike) > rank + 6:  # several more draws have added nothing
            return Fraction(rank, new.numel())
    raise AssertionError


@torch.no_grad()
def _new_parameters(old: Small, new: Small) -> tuple[tuple[int, ...], Tensor]:
    """Which old channel each new one copies (-1: none), in this order; all that the new ones have.

    Channels that carry the same are told apart by nothing: only their order by origin is fixed.
    """
    kept = places(old, new)
    others = [j for j in range(new.write.out_features) if j not in kept]
    origin = {j: _first_equal(old.write.weight, new.write.weight[j], -1) for j in others}
    at = sorted(others, key=lambda j: origin[j])
    parts = new.write.weight[at], new.write.bias[at], new.read.weight[:, at]
    return tuple(origin[j] for j in at), torch.cat([part.reshape(-1) for part in parts])


def places(old: Small, new: Small) -> list[int]:
    """Where each old channel is found in the new network, by its row; else where it was."""
    return [_first_equal(new.write.weight, row, i) for i, row in enumerate(old.write.weight)]


def _first_equal(rows: Tensor, row: Tensor, otherwise: int) -> int:
    return next((j for j in range(len(rows)) if torch.equal(rows[j], row)), otherwise)


def existing_kept(method: Method) -> Finding:
    """The share of existing entries that are bit for bit what they were."""
    kept, shuffled = dict[int, float](), False
    for add, shape in itertools.product(COUNTS, SHAPES.values()):
        old = Small(nn.ReLU, shape, norm=True)
        with suppress(Refused):
            new = method.widen(old, add)
            at = places(old, new)
            shuffled |= at != list(range(WIDTH))
            kept[add] = min(kept.get(add, 1.0), _share_kept(old, new, at))
    if not kept.keys() - {1}:
        raise Refused("no channels can be added")
    usual = min(part for add, part in kept.items() if add > 1)
    if usual < 1:
        return Finding(0, f"{usual:.0%} of the old entries")
    one = f"; {kept[1]:.0%} if one channel is added" if kept.get(1, 1.0) < 1 else ""
    return Finding(1, "all" + (", in other places" if shuffled else "") + one)


def _share_kept(old: Small, new: Small, at: list[int]) -> float:
    """Of all entries of the old network's tensors, those that are found again."""
    total, same, state = 0, 0, new.state_dict()
    for name, before in old.state_dict().items():
        after = state[name]
        for dim, size in enumerate(before.shape):
            if after.shape[dim] != size:
                after = after.index_select(dim, torch.tensor(at))
        total += before.numel()
        same += int((before == after).sum())
    return same / total
