"""Optimizer state goes along: who holds what, and how old and new entries move afterwards."""

import copy

import pytest
import torch
from torch import nn

import gnomon as gn
from contracts import new_blocks, old_part

RATE = 0.01
OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, RATE, momentum=0.9),
    "Nesterov": lambda p: torch.optim.SGD(p, RATE, momentum=0.9, nesterov=True, weight_decay=0.1),
    "Adam": lambda p: torch.optim.Adam(p, RATE),
    "AdamW": lambda p: torch.optim.AdamW(p, RATE),
    "AdamW fused": lambda p: torch.optim.AdamW(p, RATE, fused=True),
    "Adam foreach": lambda p: torch.optim.Adam(p, RATE, foreach=True),
    "AMSGrad": lambda p: torch.optim.Adam(p, RATE, amsgrad=True),
    "NAdam": lambda p: torch.optim.NAdam(p, RATE),
    "RMSprop": lambda p: torch.optim.RMSprop(p, RATE, momentum=0.9, centered=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, RATE),
}
WITHOUT_MOMENTUM_OF_STEPS = ("Adam", "AdamW", "AdamW fused", "Adam foreach", "AMSGrad")
every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


def batch(step: int = 0):
    x = torch.randn(16, 3, generator=torch.Generator().manual_seed(100 + step)).double()
    return x, torch.stack([x.sin().sum(1), (x[:, 0] * x[:, 1])], 1)


def learn(model, optimizer, steps, start=0):
    for step in range(start, start + steps):
        x, y = batch(step)
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()


def trained(name, steps=30):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)
        model = nn.Sequential(*layers).double()
    optimizer = OPTIMIZERS[name](model.parameters())
    learn(model, optimizer, steps)
    return model, optimizer


def grow(model, optimizer, rule=None, by=2.0):
    morph = gn.Widen(["0", "2"], by=by, rule=rule or gn.R2R())
    return gn.Grower(model, batch()[0], optimizer).grow(morph).plan


@every_optimizer
def test_every_parameter_stays_in_its_group_and_its_state_has_its_shape(name):
    model, optimizer = trained(name)
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    steps = [optimizer.state[p].get("step") for p in model.parameters()]
    grow(model, optimizer)
    assert [id(p) for group in optimizer.param_groups for p in group["params"]] == held
    assert {id(p) for p in optimizer.state} == {id(p) for p in model.parameters()} == set(held)
    for p, step in zip(model.parameters(), steps, strict=True):
        state = optimizer.state[p]
        assert state.get("step") is step
        assert all(v.shape in ((), p.shape) for v in state.values() if v is not None)
        assert any(v.shape == p.shape for v in state.values() if v is not None)
    learn(model, optimizer, 3)


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


@pytest.mark.parametrize("steps", [30, 400])
@pytest.mark.parametrize("rule", [gn.R2R(), gn.NetMorph(), gn.Net2Net(), gn.Hybrid()], ids=repr)
@pytest.mark.parametrize("name", WITHOUT_MOMENTUM_OF_STEPS)
def test_new_entries_are_not_kicked_in_the_first_twelve_steps(name, rule, steps):
    """400 steps: the moments of Adam are small by then, and its step count is large."""
    model, optimizer = trained(name, steps)
    plan = grow(model, optimizer, rule)
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.0  # it moves entries by their size, new or old
    for step in range(12):
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        learn(model, optimizer, 1, start=1000 + step)
        for edit in plan.edits:
            moved = (model.get_parameter(edit.name).detach() - before[edit.name]).abs()
            for label, block in new_blocks(moved, edit, plan):
                assert block.max() <= 1.2 * RATE, f"{edit.name} {label} at step {step}"


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


def test_fresh_second_moments_start_at_the_square_of_the_first_gradient():
    model, optimizer = trained("Adam")
    for state in optimizer.state.values():
        state["exp_avg_sq"].fill_(1e-14)
    plan = grow(model, optimizer)
    learn(model, optimizer, 1, start=50)
    for edit in plan.edits:
        p = model.get_parameter(edit.name)
        corrected = optimizer.state[p]["exp_avg_sq"] / (1 - 0.999**31)
        ratio = corrected / p.grad.square()
        for label, block in new_blocks(ratio, edit, plan):
            assert 0.99 < block.min() and block.max() < 1.1, f"{edit.name} {label}"
        assert old_part(ratio, edit, plan).max() < 0.1


@pytest.mark.parametrize(
    ("name", "key"),
    [("Adam", "exp_avg_sq"), ("AMSGrad", "max_exp_avg_sq"), ("RMSprop", "square_avg")],
)
def test_until_the_first_step_fresh_second_moments_are_the_mean_of_the_tensor(name, key):
    """All that is left of the care for new entries if the optimizer is pickled and read again."""
    model, optimizer = trained(name)
    means = {n: optimizer.state[p][key].mean() for n, p in model.named_parameters()}
    plan = grow(model, optimizer)
    for edit in plan.edits:
        now = optimizer.state[model.get_parameter(edit.name)][key]
        for label, block in new_blocks(now, edit, plan):
            assert torch.allclose(block, means[edit.name], rtol=1e-12, atol=0), label


def test_the_watch_for_first_gradients_ends():
    model, optimizer = trained("Adam")
    for _ in range(2):
        grow(model, optimizer, by=1.4)
    (hook,) = optimizer._optimizer_step_pre_hooks.values()
    assert len(hook._waiting) == 5
    learn(model, optimizer, hook.HOLD)
    assert not hook._waiting


@pytest.mark.parametrize("uneven", [False, True])
def test_net2net_divides_the_moments_of_writers_and_copies_those_of_readers(uneven):
    model, optimizer = trained("Adam")
    old = {n: dict(optimizer.state[p]) for n, p in model.named_parameters()}
    plan = grow(model, optimizer, gn.Net2Net(uneven=uneven), by=1.5)
    for edit in plan.edits:
        state = optimizer.state[model.get_parameter(edit.name)]
        for key, power in (("exp_avg", 1), ("exp_avg_sq", 2)):
            expected = old[edit.name][key]
            for d in edit.dims:
                source = plan.embedding(d.form).source
                expected = expected.index_select(d.dim, source)
                if d.role == "write":
                    r = torch.bincount(source)[source].double() ** power
                    expected = expected / r.reshape([-1] + [1] * (expected.dim() - 1))
            assert torch.allclose(state[key], expected, rtol=1e-14, atol=0), (edit.name, key)


def test_gradients_go_along_with_nothing_for_what_is_new():
    model, optimizer = trained("SGD")
    old = {n: p.grad.clone() for n, p in model.named_parameters()}
    plan = grow(model, optimizer)
    for edit in plan.edits:
        grad = model.get_parameter(edit.name).grad
        assert torch.equal(old_part(grad, edit, plan), old[edit.name])
        assert grad.count_nonzero() == old[edit.name].count_nonzero()


@every_optimizer
def test_an_optimizer_that_has_not_stepped_yet_can_go_along(name):
    model, _ = trained("SGD", steps=0)
    optimizer = OPTIMIZERS[name](model.parameters())
    grow(model, optimizer)
    learn(model, optimizer, 2)
    assert all(optimizer.state[p] for p in model.parameters())


def test_the_state_dict_of_a_grown_optimizer_loads_into_a_new_one():
    model, optimizer = trained("AdamW")
    grow(model, optimizer)
    other = OPTIMIZERS["AdamW"](model.parameters())
    other.load_state_dict(optimizer.state_dict())
    learn(model, other, 1)
    assert all(float(s["step"]) == 31 for s in other.state.values())


def test_several_optimizers_go_along():
    model, _ = trained("SGD", 0)
    first = torch.optim.Adam(model[0].parameters(), RATE)
    second = torch.optim.SGD([*model[2].parameters(), *model[4].parameters()], RATE, momentum=0.9)
    model(batch()[0]).sum().backward()
    first.step(), second.step()
    grow(model, [first, second])
    assert first.state[model[0].weight]["exp_avg"].shape == (12, 3)
    assert second.state[model[2].weight]["momentum_buffer"].shape == (10, 12)


def test_frozen_parameters_need_no_optimizer():
    model, _ = trained("SGD", 0)
    model[0].requires_grad_(False)
    optimizer = OPTIMIZERS["AdamW"](p for p in model.parameters() if p.requires_grad)
    grow(model, optimizer)
    assert not model[0].weight.requires_grad and model[0].weight.grad is None
    learn(model, optimizer, 2)


@pytest.mark.parametrize("make", [torch.optim.Adafactor, torch.optim.LBFGS, torch.optim.Rprop])
def test_state_that_cannot_be_carried_is_refused_by_name_and_nothing_changes(make):
    model, _ = trained("SGD")
    optimizer = make(model.parameters())
    optimizer.step(lambda: loss_of(model, optimizer))
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(gn.Unsupported, match=make.__name__):
        grow(model, optimizer)
    assert all(map(torch.equal, before, model.parameters()))


def loss_of(model, optimizer):
    optimizer.zero_grad()
    value = model(batch()[0]).square().mean()
    value.backward()
    return value.detach()


def test_an_optimizer_of_a_copy_is_refused():
    model, _ = trained("SGD")
    stranger = OPTIMIZERS["SGD"](copy.deepcopy(model).parameters())
    with pytest.raises(gn.Unsupported, match="this model's"):
        gn.Grower(model, batch()[0], stranger)
