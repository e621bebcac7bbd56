"""Models that try to break the analysis: exact from outside, or refused and untouched."""

import copy

import pytest
import torch
from torch import Tensor, nn

import gnomon as gn
from hostile import HOSTILE, RULES, Net
from untouched import bits


def answers(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Eval and train mode, each on a copy, so that nothing is left behind."""
    found: list[Tensor] = []
    for training in (False, True):
        with torch.no_grad():
            y = copy.deepcopy(model).train(training)(x.clone())
        found += y if isinstance(y, tuple) else [y]
    return found


def change(old: list[Tensor], new: list[Tensor]) -> float:
    pairs = list(zip(old, new, strict=True))
    if any(a.shape != b.shape or a.dtype != b.dtype for a, b in pairs):
        return float("inf")
    return max(float((a.double() - b.double()).abs().max() / a.abs().max()) for a, b in pairs)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_model_grows_exactly_or_not_at_all(name: str) -> None:
    row = HOSTILE[name]
    torch.manual_seed(0)
    model = Net(row.run, row.parts()).double()
    x = torch.randn(*row.shape, dtype=torch.float64)
    old = answers(model, x)
    groups = [g for g in gn.Grower(model, x).groups if g.verdict in ("growable", "normed")]
    grew: dict[str, str] = {}
    for where in [[g.name] for g in groups] + [[g.name for g in groups]] * (len(groups) > 1):
        for letter, amount in RULES.items():
            bigger = copy.deepcopy(model)
            before = bits(bigger.state_dict())
            try:
                gn.Grower(bigger, x).grow(gn.Widen(where, **amount))
            except gn.GrowthError:
                assert bits(bigger.state_dict()) == before
                continue
            assert change(old, answers(bigger, x)) < 1e-12, (where, letter)
            if len(where) == 1:
                grew[where[0]] = grew.get(where[0], "") + letter
    missing = {g: set(rules) - set(grew.get(g, "")) for g, rules in row.grows.items()}
    assert not any(missing.values()), f"must grow: {row.grows}, grew: {grew}"
