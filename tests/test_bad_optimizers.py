"""Live losses and strange optimizers: refused with the way out, or carried along."""

import copy

import pytest
import torch
from torch import nn

import gnomon as gn
from small_models import X, deep, small
from untouched import refused


def trained(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Two steps, and fresh gradients: state and gradients are there to be damaged."""
    for _ in range(2):
        optimizer.zero_grad()
        model(X).pow(2).mean().backward()
        optimizer.step()


def test_a_live_loss_is_refused_and_still_works() -> None:
    model = small()
    optimizer = torch.optim.Adam(model.parameters())
    trained(model, optimizer)
    grower = gn.Grower(model, X, optimizer)
    loss = model(X).sum()
    with refused(gn.InUse, "0.weight", "del loss", of=model, optimizer=optimizer):
        grower.grow(gn.Widen("0", add=2))
    loss.backward()
    del loss
    grower.grow(gn.Widen("0", add=2))
    assert model[0].weight.shape == model[0].weight.grad.shape == (8, 4)


def test_an_optimizer_of_a_copy_is_refused() -> None:
    model = small()
    optimizer = torch.optim.SGD(copy.deepcopy(model).parameters(), 0.1)
    with refused(gn.Unsupported, "SGD", "parameters()", "copy", of=model, optimizer=optimizer):
        gn.Grower(model, X, optimizer)


@pytest.mark.parametrize("optimizer", ["adam", 3, ["adam"]], ids=repr)
def test_something_else_than_an_optimizer_is_named(optimizer: object) -> None:
    with pytest.raises((ValueError, gn.GrowthError), match="optimizer"):
        gn.Grower(small(), X, optimizer)


def test_an_optimizer_may_hold_a_head_and_a_loss_only() -> None:
    model, loss = small(), nn.Linear(3, 1)
    optimizer = torch.optim.SGD([*model[2].parameters(), *loss.parameters()], 0.1, momentum=0.9)
    gn.Grower(model, X, optimizer).grow(gn.Widen("0", add=2))
    assert optimizer.param_groups[0]["params"][0].shape == (3, 8)


class Remembers(torch.optim.SGD):
    """Keeps its gradients in a list."""

    def step(self, closure: object = None) -> None:
        for p in (p for group in self.param_groups for p in group["params"]):
            self.state[p].setdefault("memory", []).append(p.grad.clone())


@pytest.mark.parametrize("kind", [torch.optim.Rprop, torch.optim.ASGD, Remembers])
def test_optimizer_state_that_no_rule_knows_is_refused(kind: type[torch.optim.Optimizer]) -> None:
    model = small()
    optimizer = kind(model.parameters(), lr=0.1)
    trained(model, optimizer)
    with refused(gn.Unsupported, kind.__name__, "Adam(W)", of=model, optimizer=optimizer):
        gn.Grower(model, X, optimizer).grow(gn.Widen("0", add=2))


@pytest.mark.parametrize("cleared", [False, True])
@pytest.mark.parametrize("group", ["0", "4"])
def test_lbfgs_is_refused_wherever_the_growth_is(group: str, cleared: bool) -> None:
    model = deep()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(X).pow(2).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    if cleared:
        optimizer.state.clear()  # it still remembers the old number of parameters
    with refused(gn.Unsupported, "LBFGS", of=model):
        gn.Grower(model, X, optimizer).grow(gn.Widen(group, add=2))
    optimizer.step(closure)


def test_a_refusal_after_the_edits_leaves_no_trace() -> None:
    class Hidden(nn.Module):
        """Averages its channels where no operation of PyTorch shows it."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.first(x)
            return self.second(h * torch.from_numpy(h.detach().numpy().mean(1, keepdims=True)))

    model = Hidden()
    optimizer = torch.optim.Adam(model.parameters(), amsgrad=True)
    trained(model, optimizer)
    model.eval()
    with refused(gn.GrowthError, of=model, optimizer=optimizer):
        gn.Grower(model, X, optimizer).grow(gn.Widen("first", add=2))
