"""Optimizer state goes along: who holds what, and what new entries start with."""

import copy

import pytest
import torch

import gnomon as gn
from contracts import new_blocks, old_part
from descent import OPTIMIZERS, RATE, batch, grow, learn, trained

every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


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
def test_net2net_divides_the_moments_of_writers_as_their_gradients_will_be(uneven):
    model, optimizer = trained("Adam")
    old = {n: dict(optimizer.state[p]) for n, p in model.named_parameters()}
    plan = grow(model, optimizer, gn.Net2Net(uneven=uneven), by=1.5)
    for edit in plan.edits:
        state = optimizer.state[model.get_parameter(edit.name)]
        for key, power in (("exp_avg", 1), ("exp_avg_sq", 0 if uneven else 2)):
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
