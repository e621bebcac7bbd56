"""How old and new entries move in the first steps after a growth."""

import copy

import pytest
import torch
from torch import nn

import gnomon as gn
from contracts import new_blocks, old_part
from descent import OPTIMIZERS, RATE, batch, grow, learn, trained

every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


@pytest.mark.parametrize("rule", [gn.R2R(), gn.NetMorph(), gn.Hybrid()], ids=repr)
@every_optimizer
def test_the_next_steps_move_old_entries_as_in_the_small_network(name, rule):
    model, optimizer = trained(name)
    small = copy.deepcopy(model)
    other = OPTIMIZERS[name](small.parameters())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    plan = grow(model, optimizer, rule)
    learn(model, optimizer, 1, start=50)
    learn(small, other, 1, start=50)
    grown = dict(model.named_parameters())
    for edit in plan.edits:
        now = old_part(grown[edit.name].detach(), edit, plan)
        moved = (now - small.get_parameter(edit.name)).abs().max()
        assert moved <= 1e-10 * RATE, edit.name


@pytest.mark.parametrize("seed", [0, 10_000])
@pytest.mark.parametrize("steps", [30, 400])
@pytest.mark.parametrize(
    "rule", [gn.R2R(), gn.NetMorph(), gn.Net2Net(), gn.Net2Net(uneven=False), gn.Hybrid()], ids=repr
)
@pytest.mark.parametrize("name", ["Adam", "AdamW", "AMSGrad"])
def test_new_entries_are_not_kicked_in_the_first_twelve_steps(name, rule, steps, seed):
    """400 steps: the moments of Adam are small by then, and its step count is large.

    Copies may step as far as their originals would have, which is a little more at times.
    """
    model, optimizer = trained(name, steps, seed)
    small = copy.deepcopy(model)
    other = OPTIMIZERS[name](small.parameters())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    plan = grow(model, optimizer, rule)
    for group in (*optimizer.param_groups, *other.param_groups):
        group["weight_decay"] = 0.0  # it moves entries by their size, new or old
    ours, theirs = [], []
    for step in range(12):
        for edit, moved in moves(model, optimizer, plan, seed + 1000 + step):
            ours += [float(block.max()) for _, block in new_blocks(moved, edit, plan)]
        theirs += [float(m.max()) for _, m in moves(small, other, plan, seed + 1000 + step)]
    assert max(ours) <= max(1.2 * RATE, 1.1 * max(theirs))


def moves(model, optimizer, plan, start):
    """What one step does to the tensors of a plan."""
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    learn(model, optimizer, 1, start)
    for edit in plan.edits:
        yield edit, (model.get_parameter(edit.name).detach() - before[edit.name]).abs()


@pytest.mark.parametrize("rule", [gn.R2R(), gn.NetMorph(), gn.Net2Net()], ids=repr)
@every_optimizer
def test_new_entries_are_not_frozen(name, rule):
    model, optimizer = trained(name)
    plan = grow(model, optimizer, rule)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    learn(model, optimizer, 50, start=50)
    for edit in plan.edits:
        moved = (model.get_parameter(edit.name).detach() - before[edit.name]).abs()
        usual = old_part(moved, edit, plan).median()
        for label, block in new_blocks(moved, edit, plan):
            assert block.median() > 0.005 * usual, f"{edit.name} {label}"


@pytest.mark.parametrize("fused", [False, True])
def test_new_entries_move_alike_under_a_gradient_scaler(fused):
    """A fused optimizer unscales gradients itself: a hook before the step sees scaled ones."""
    first = []
    for scale in (1.0, 65536.0):
        model, optimizer = trained("AdamW fused" if fused else "AdamW")
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        plan = grow(model, optimizer)
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        x, y = batch(50)
        optimizer.zero_grad()
        scaler.scale((model(x) - y).square().mean()).backward()
        scaler.step(optimizer)
        first.append([(model.get_parameter(e.name).detach() - before[e.name]) for e in plan.edits])
    for alone, scaled in zip(*first, strict=True):
        assert torch.allclose(alone, scaled, rtol=1e-6, atol=0)


def test_a_step_that_a_gradient_scaler_skips_does_not_freeze_new_entries():
    model, optimizer = trained("AdamW fused")
    scaler = torch.amp.GradScaler("cpu")
    grow(model, optimizer)
    for p in model.parameters():
        p.grad = torch.full_like(p, float("inf"))
    scaler.scale(torch.ones(1))  # makes the scale
    scaler.step(optimizer)
    assert all(s["exp_avg_sq"].isfinite().all() for s in optimizer.state.values())


@pytest.mark.parametrize("rule", [gn.R2R(), gn.NetMorph()], ids=repr)
def test_new_entries_of_the_growth_before_last_are_still_looked_after(rule):
    model, optimizer = trained("Adam")
    for state in optimizer.state.values():
        state["exp_avg_sq"].fill_(1e-14)
    first, second = (grow(model, optimizer, rule, by=2.0) for _ in range(2))
    learn(model, optimizer, 2, start=50)
    for edit, later in zip(first.edits, second.edits, strict=True):
        p = model.get_parameter(edit.name)
        kept = old_part(optimizer.state[p]["exp_avg_sq"], later, second)
        gradient = old_part(p.grad, later, second).square() * (1 - 0.999**32)
        for label, block in new_blocks(kept / gradient, edit, first):
            assert block.min() > 0.4, f"{edit.name} {label}"


def test_second_moments_fit_gradients_that_a_closure_makes():
    """Hooks run before the closure: the gradients they see are those of the step before."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    optimizer, x = torch.optim.Adam(model.parameters(), lr=0.01), torch.randn(32, 6).double()

    def closure():
        optimizer.zero_grad()
        loss = (model(x) - 1).square().mean()
        loss.backward()
        return loss

    for _ in range(20):
        optimizer.step(closure)
    optimizer.zero_grad()
    gn.Grower(model, x, optimizer).grow(gn.Widen("0", add=6, rule=gn.NetMorph()))
    optimizer.step(closure)
    gradient, state = model[2].weight.grad[:, 8:], optimizer.state[model[2].weight]
    correction = 1 - 0.999 ** float(state["step"])  # the moment starts at its own square
    expected = gradient.square() * (0.999 * correction + 0.001)
    assert torch.allclose(state["exp_avg_sq"][:, 8:], expected, rtol=1e-9)
