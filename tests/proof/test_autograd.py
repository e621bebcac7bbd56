"""The proof sees what a model computes while autograd is on, as in training."""

import pytest
import torch
from torch import nn

import gnomon as gn
from gnomon.proof import verify
from untouched import refused

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


class Counts(nn.Module):
    """Divides by its own width, but only while it learns: no tape shows that."""

    def __init__(self, asks):
        super().__init__()
        self.a, self.b, self.asks = nn.Linear(4, 6), nn.Linear(6, 3), asks

    def forward(self, x):
        h = self.a(x).tanh()
        if self.asks(x, h):
            h = h / h.shape[1]
        return self.b(h.float() if len(x) == 5 else h)


ASKS = {
    "of the mode": lambda x, h: torch.is_grad_enabled(),
    "of a tensor": lambda x, h: h.requires_grad,
    "of a weight's tensor": lambda x, h: h.grad_fn is not None,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("asks", ASKS.values(), ids=ASKS)
def test_what_runs_only_with_autograd_is_seen(asks, dtype):
    model = Counts(asks).to(dtype).train()
    grower = gn.Grower(model, X.to(dtype))
    with refused(gn.NotProved, of=model):
        grower.grow(gn.Widen("a", to=12))


@pytest.mark.parametrize("last", [False, True])
def test_it_is_seen_where_another_call_has_no_float64_answer(last):
    model = Counts(lambda x, h: len(x) == 6 and torch.is_grad_enabled()).train()
    calls = [X[:6], X[:5]] if last else [X[:5], X[:6]]
    grower = gn.Grower(model, calls)
    with refused(gn.NotProved, of=model):
        grower.grow(gn.Widen("a", to=12))


@pytest.mark.parametrize("morph", [gn.Widen("a", to=12), gn.Deepen("a")], ids=str)
def test_what_autograd_changes_is_not_taken_for_rounding(morph, monkeypatch):
    """Nor where only the small model fits the budget of float64 copies."""
    model = Counts(ASKS["of the mode"]).train()
    before = model(X).detach()
    size = sum(p.numel() for p in model.parameters()) * 8
    monkeypatch.setattr(verify, "FLOAT64_BUDGET", size)
    grower = gn.Grower(model, X)
    if isinstance(morph, gn.Widen):
        with refused(gn.NotProved, of=model):
            grower.grow(morph)
    else:
        assert grower.grow(morph).largest_change <= 1e-6
    assert (model(X) - before).abs().max() <= 1e-6
