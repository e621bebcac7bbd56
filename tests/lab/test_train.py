"""The loop: it learns, repeats itself, counts what it does, and grows when it is told to."""

import copy
import math
from itertools import pairwise

import pytest
import torch
from torch import nn

pytest.importorskip("lightning")

from gnomon.lab.errors import LabError
from gnomon.lab.train import (
    Grown,
    Machine,
    Measured,
    Recipe,
    accuracy,
    step_flops,
    train,
)

RECIPE = Recipe(epochs=4, batch=16, lr=1e-2)
CPU = Machine("cpu")


class Net(nn.Module):
    def __init__(self, hidden: int = 6) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.hidden = nn.Linear(16, hidden)
            self.norm = nn.BatchNorm1d(hidden)
            self.head = nn.Linear(hidden, 2)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.hidden(x.flatten(1)))))


def run(task, recipe=RECIPE, growths=(), model=None):
    model = model or Net()
    return model, list(train(model, task, recipe, machine=CPU, growths=growths))


def test_it_learns_an_easy_task_and_measures_before_the_first_epoch(task):
    _, events = run(task)
    assert [event.epoch for event in events] == [0, 1, 2, 3, 4]
    assert math.isnan(events[0].loss)
    assert events[-1].loss < 0.6 * events[1].loss
    assert events[-1].accuracy == 1.0


def test_the_same_seed_gives_the_same_weights_and_another_seed_does_not(task):
    weights = [run(task, recipe)[0].hidden.weight for recipe in (RECIPE, RECIPE)]
    assert torch.equal(*weights)
    other, _ = run(task, Recipe(epochs=4, batch=16, lr=1e-2, seed=1))
    assert not torch.equal(weights[0], other.hidden.weight)


def test_training_leaves_the_global_generator_alone(task):
    before = torch.get_rng_state()
    run(task)
    assert torch.equal(torch.get_rng_state(), before)


def test_steps_and_flops_add_up(task):
    model, events = run(task)
    images = task.normalised(task.train.images[:16])
    per_step = step_flops(model, images, task.train.labels[:16])
    assert [event.step for event in events] == [0, 6, 12, 18, 24]
    assert [event.flops for event in events] == [per_step * event.step for event in events]


def test_step_flops_are_those_counted_by_hand(task):
    images = task.normalised(task.train.images[:16])
    forward = 2 * 16 * (16 * 6 + 6 * 2)
    backward = 2 * 16 * (16 * 6 + 2 * 6 * 2)  # no gradient flows into the images
    assert step_flops(Net(), images, task.train.labels[:16]) == forward + backward


def test_counting_flops_leaves_the_model_as_it_was(task):
    model = Net()
    before = copy.deepcopy(model.state_dict())
    step_flops(model, task.normalised(task.train.images[:16]), task.train.labels[:16])
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_accuracy_is_measured_in_eval_mode_and_changes_nothing(task):
    model = Net().train()
    before = copy.deepcopy(model.state_dict())
    right = accuracy(model, task, task.validation)
    assert model.training
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)
    guesses = model.eval()(task.normalised(task.validation.images)).argmax(1)
    assert right == (guesses == task.validation.labels).float().mean().item()


def test_a_growth_gets_the_users_own_objects_once_at_its_epoch(task):
    calls = []

    def growth(model, optimizer, example):
        assert all(parameter.grad is None for parameter in model.parameters())
        moments = {id(p) for p in optimizer.state}
        assert moments == {id(p) for p in model.parameters()}
        calls.append((type(model), type(optimizer), example.shape[1:], example.dtype))
        return "receipt"

    _, events = run(task, growths=[(2, growth)])
    assert calls == [(Net, torch.optim.AdamW, (1, 4, 4), torch.float32)]
    kinds = [type(event) for event in events]
    assert kinds == [Measured, Measured, Measured, Grown, Measured, Measured]
    assert events[3] == Grown(epoch=2, step=12, flops=events[2].flops, receipt="receipt")


def test_a_growth_of_nothing_changes_nothing_that_follows(task):
    alone, _ = run(task)
    grown, _ = run(task, growths=[(2, lambda model, optimizer, example: None)])
    assert torch.equal(alone.head.weight, grown.head.weight)


def test_flops_are_counted_anew_after_a_growth(task):
    def growth(model, optimizer, example):
        large = Net(hidden=12)
        model.hidden, model.norm, model.head = large.hidden, large.norm, large.head

    _, events = run(task, growths=[(2, growth)])
    points = [event for event in events if isinstance(event, Measured)]
    spent = [after.flops - before.flops for before, after in pairwise(points)]
    assert spent == [spent[0], spent[0], 2 * spent[0], 2 * spent[0]]
    assert points[-1].parameters > points[0].parameters


def test_a_growth_before_the_first_epoch_follows_the_first_measurement(task):
    _, events = run(task, growths=[(0, lambda model, optimizer, example: None)])
    assert [type(event) for event in events[:3]] == [Measured, Grown, Measured]


def test_a_loss_that_is_no_number_stops_the_run(task):
    model = Net()
    nn.init.constant_(model.head.bias, math.inf)
    with pytest.raises(LabError, match="loss of epoch 1 is nan"):
        run(task, model=model)


def test_the_rate_climbs_to_lr_and_falls_to_zero():
    recipe = Recipe(epochs=1, lr=1.0, warmup=0.1)
    rates = [recipe.rate(step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.05 + 0.1 * step for step in range(10)])
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert rates[10] > 0.999
    assert 0 < rates[-1] < 0.001


def test_a_single_step_still_learns():
    assert Recipe(epochs=1).rate(0, 1) > 0


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"batch": 0}, {"warmup": 1.0}])
def test_a_recipe_that_cannot_be_cooked_is_refused(wrong):
    with pytest.raises(ValueError, match="must be"):
        Recipe(**{"epochs": 1, **wrong})


def test_a_device_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(LabError, match="cuda cannot be used"):
        Machine("cuda").fabric()
