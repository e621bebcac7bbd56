"""Joint training, evaluation and recalibration, on any kind of input."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from small_search import ADAM, IMAGES, data, family, problem, trained
from torch import nn

from gnomon.evolution import (
    Joint,
    Problem,
    SharedOptimizer,
    evaluate,
    from_iterable,
    from_tensors,
    recalibrate,
)
from gnomon.evolution.chance import Chance
from gnomon.evolution.joint.problem import answered, examples_in


def joint(steps, **rest):
    return Joint(problem(), SharedOptimizer(ADAM), steps, **rest)


def test_every_step_is_on_one_member_and_all_are_drawn_alike():
    members = family(count=4)
    done = joint(400).train(members, "alike")
    assert sum(done.steps.values()) == done.spent.steps == 400
    assert all(70 <= count <= 130 for count in done.steps.values())
    assert done.losses.keys() == {0, 1, 2, 3}


def test_the_key_decides_which_members_and_batches_are_drawn():
    def drawn(*key):
        seen = []

        def look(member):
            gradient = member.network.head.weight.grad
            seen.append((member.id, float(gradient.abs().sum())))

        joint(12, before=look).train(family(), *key)
        return seen

    assert drawn("a", 1) == drawn("a", 1)
    assert Counter(i for i, _ in drawn("a", 1)) != Counter(i for i, _ in drawn("a", 2))


class Noisy(nn.Module):
    """A network behind a dropout."""

    def __init__(self, network):
        super().__init__()
        self.network, self.drop = network, nn.Dropout(0.5)

    def forward(self, x):
        return self.network(self.drop(x))


def test_random_layers_draw_from_the_key_too():
    results = []
    for salt in (0, 1):
        torch.manual_seed(salt)
        [member] = family(count=1)
        joint(5).train([replace(member, network=Noisy(member.network))], "noise")
        results.append(member.network.head.weight.detach())
    assert torch.equal(*results)


def test_nothing_is_dropped_in_recalibration():
    [member] = family(count=1)
    noisy = replace(member, network=Noisy(member.network).train())
    found = []
    for one in (noisy, member):
        recalibrate(one, problem(), "same")
        found.append([b.clone() for b in member.network.buffers()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_gradients_are_freed_after_a_step():
    members = family(count=2)
    joint(4).train(members, "freed")
    assert all(p.grad is None for m in members for p in m.parameters.values())


def test_something_can_be_done_between_backward_and_update():
    [member] = family(count=1)
    before = member.network.head.weight.detach().clone()

    def forget(member):
        for p in member.parameters.values():
            p.grad = None

    joint(3, before=forget).train([member], "nothing")
    assert torch.equal(member.network.head.weight, before)


def test_recalibrated_statistics_are_those_of_the_batches():
    base, member = family(count=2)
    trained(IMAGES, [base, member])
    given = problem(recalibration=3)
    recalibrate(member, given, "statistics")
    draw = Chance("statistics").generator
    batches = [given.batch(draw)[0] for _ in range(3)]
    stage = member.network.stages[0].body.branches[0]
    hidden = [stage.conv1(x) for x in batches]
    mean = torch.stack([h.mean((0, 2, 3)) for h in hidden]).mean(0)
    var = torch.stack([h.var((0, 2, 3)) for h in hidden]).mean(0)
    assert torch.allclose(stage.norm1.running_mean, mean, rtol=0, atol=1e-12)
    assert torch.allclose(stage.norm1.running_var, var, rtol=1e-10)
    assert stage.norm1.momentum == 0.1 and not stage.norm1.training


def test_recalibration_is_of_one_member_alone_and_moves_no_parameter():
    base, member = family(count=2)
    trained(IMAGES, [base, member])
    theirs = [b.clone() for b in base.network.buffers()]
    parameters = {key: p.detach().clone() for key, p in member.parameters.items()}
    recalibrate(member, problem(), "own")
    assert all(torch.equal(a, b) for a, b in zip(theirs, base.network.buffers(), strict=True))
    assert all(torch.equal(member.parameters[key], p) for key, p in parameters.items())


def test_without_recalibration_the_statistics_of_training_stay():
    [member] = family(count=1)
    trained(IMAGES, [member])
    before = [b.clone() for b in member.network.buffers()]
    recalibrate(member, problem(recalibration=0), "none")
    assert all(torch.equal(a, b) for a, b in zip(before, member.network.buffers(), strict=True))


def test_evaluation_is_in_eval_mode_and_in_order():
    [member] = family(count=1)
    trained(IMAGES, [member])
    x, y = data(IMAGES)
    right = evaluate(member, from_tensors((x, y), (x, y), evaluation_batch=7))
    assert torch.equal(right, member.network.eval()(x).argmax(1) == y)


def test_inputs_can_be_tensors_tuples_or_mappings():
    class Two(nn.Module):
        def forward(self, a, b=2.0):
            return a * b

    x = torch.ones(3, 2)
    assert torch.equal(answered(Two(), x), 2 * x)
    assert torch.equal(answered(Two(), (x, 3.0)), 3 * x)
    assert torch.equal(answered(Two(), {"a": x, "b": 4.0}), 4 * x)
    assert [examples_in(i) for i in (x, (x, 1), {"a": x}, torch.tensor(1.0))] == [3, 3, 3, 1]


def test_a_loader_is_gone_through_over_and_over():
    batch = from_iterable([(torch.zeros(1), i) for i in range(3)])
    assert [batch(torch.Generator())[1] for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]
    with pytest.raises(ValueError, match="empty"):
        from_iterable([])(torch.Generator())


def test_validation_can_be_a_function_that_begins_anew():
    x, y = data(IMAGES)
    given = Problem(lambda g: (x, y), lambda: iter([(x, y)]))
    [member] = family(count=1)
    assert torch.equal(evaluate(member, given), evaluate(member, given))


def test_regression_needs_nothing_but_another_loss_and_correctness():
    x, _ = data(IMAGES)
    y = x.flatten(1).mean(1, keepdim=True).expand(-1, 3)
    given = from_tensors(
        (x, y), (x, y), loss=nn.functional.mse_loss,
        correct=lambda out, t: ((out - t).abs() < 0.1).all(1), recalibration=1,
    )  # fmt: skip
    [member] = family(count=1)
    before = evaluate(member, given).double().mean()
    Joint(given, SharedOptimizer(ADAM), 150).train([member], "regression")
    recalibrate(member, given, "regression")
    assert evaluate(member, given).double().mean() > before
