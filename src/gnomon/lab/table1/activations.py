"""PyTorch's activation functions, and the classes of them that the papers speak of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import activation as of_torch

from gnomon.lab.table1.networks import EXACT, WIDTH, Activation, normal


class LayerNormed(nn.Module):
    """LayerNorm without gains, whatever the width."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x, normalised over its last dimension."""
        return F.layer_norm(x, x.shape[-1:])


_ARGUMENTS: Mapping[str, Mapping[str, float]] = {
    "Threshold": {"threshold": 0.1, "value": 0.5},
    "Softmax": {"dim": -1},
    "Softmin": {"dim": -1},
    "LogSoftmax": {"dim": -1},
}
_OTHER_SHAPES = {"GLU", "MultiheadAttention", "Softmax2d"}  # not (N, C) to (N, C)

ACTIVATIONS: Mapping[str, Activation] = {
    name: partial(getattr(of_torch, name), **_ARGUMENTS.get(name, {}))
    for name in of_torch.__all__
    if name not in _OTHER_SHAPES
} | {"LayerNorm": LayerNormed}


@cache
def families() -> Mapping[str, frozenset[str]]:
    """Classes of activations, measured."""
    per_entry = _having(acts_per_entry)
    return {
        "in all": frozenset(ACTIVATIONS),
        "per entry": per_entry,
        "with f(0) = 0": per_entry & _having(fixes_zero),
        "idempotent": per_entry & _having(is_idempotent),
    }


def flat_at_zero() -> frozenset[str]:
    """Activations with f(0) = 0 that no gradient passes there."""
    return families()["with f(0) = 0"] & _having(is_flat_at_zero)


def _having(claim: Callable[[Activation], bool]) -> frozenset[str]:
    return frozenset(name for name, activation in ACTIVATIONS.items() if claim(activation))


def described(names: Iterable[str], most: int = 8) -> str:
    """A set of activations: by a class that is nearly the same, by up to `most` names, by size."""
    found = frozenset(names)
    if not found:
        return "none"
    label, family = min(families().items(), key=lambda named: len(named[1] ^ found))
    if len(family ^ found) <= 4:
        without = f"without {_listed(family - found)}" if family - found else ""
        besides = f"and {_listed(found - family)}" if found - family else ""
        return ", ".join(filter(None, [f"the {len(family)} {label}", without, besides]))
    return _listed(found) if len(found) <= most else str(len(found))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def called(activation: Activation, x: Tensor) -> Tensor:
    """What a fresh activation gives in eval mode."""
    with torch.no_grad():
        y: Tensor = activation().double().eval()(x.clone())
    return y


def acts_per_entry(activation: Activation) -> bool:
    """Whether an entry of the output depends on the same entry of the input alone (000, eq. 5)."""
    x, other = normal(32, WIDTH, seed=3), normal(32, WIDTH, seed=4)
    other[:, 0] = x[:, 0]
    return torch.equal(called(activation, x)[:, 0], called(activation, other)[:, 0])


def fixes_zero(activation: Activation) -> bool:
    """Whether f(0) = 0."""
    return not bool(called(activation, torch.zeros(1, WIDTH, dtype=torch.float64)).any())


def is_idempotent(activation: Activation) -> bool:
    """Whether f(f(x)) = f(x)."""
    once = called(activation, 3 * normal(64, WIDTH, seed=5))
    return bool((called(activation, once) - once).abs().max() <= EXACT)


def is_flat_at_zero(activation: Activation) -> bool:
    """Whether the slope of f at 0 is 0, as PyTorch takes it."""
    x = torch.zeros(1, WIDTH, dtype=torch.float64, requires_grad=True)
    weighted = activation().double().eval()(x) * normal(1, WIDTH, seed=6)
    (slope,) = torch.autograd.grad(weighted.sum(), x)
    return not bool(slope.any())
