"""How old and new entries move in the first steps after a growth."""

import copy

import pytest

import gnomon as gn
from contracts import new_blocks, old_part
from descent import OPTIMIZERS, RATE, grow, learn, trained

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
