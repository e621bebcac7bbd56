"""The loop: it learns, repeats itself, counts what it does, grows when it is told to, goes on."""

import copy
import io
import json
import math
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch
from torch import nn

pytest.importorskip("lightning")

from tiny_runs import DropoutNet, alike

from gnomon.lab.errors import LabError
from gnomon.lab.training.compute import step_flops
from gnomon.lab.training.machine import Machine
from gnomon.lab.training.recipe import Recipe, augmented
from gnomon.lab.training.train import Grown, Round, Spent, Training, accuracy, regrown
from gnomon.morphs import Deepen, Widen
from gnomon.rules import R2R
from gnomon.schedule import At, OnPlateau, Timeline

RECIPE = Recipe(epochs=4, batch=16, lr=1e-2)
CPU = Machine("cpu")
WIDER = Widen("*", by=2, rule=R2R())


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


def made(task, recipe=RECIPE, schedule=None, model=None, **more):
    timeline = Timeline(schedule) if schedule is not None else None
    return Training(model or Net(), task, recipe, machine=CPU, timeline=timeline, **more)


def run(task, recipe=RECIPE, schedule=None, model=None):
    training = made(task, recipe, schedule, model)
    return training.model, list(training.rounds())


def kept(training):
    """The state as a file keeps it: without shared memory, read without pickled objects."""
    file = io.BytesIO()
    torch.save(training.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_it_learns_an_easy_task_and_measures_before_the_first_epoch(task):
    _, rounds = run(task)
    points = [round.point for round in rounds]
    assert [point.epoch for point in points] == [0, 1, 2, 3, 4]
    assert math.isnan(points[0].loss)
    assert points[-1].loss < 0.6 * points[1].loss
    assert points[-1].accuracy == 1.0


def test_the_same_seed_gives_the_same_weights_and_another_seed_does_not(task):
    weights = [run(task, recipe)[0].hidden.weight for recipe in (RECIPE, RECIPE)]
    assert torch.equal(*weights)
    other, _ = run(task, replace(RECIPE, seed=1))
    assert not torch.equal(weights[0], other.hidden.weight)


def test_training_leaves_the_global_generator_alone(task):
    before = torch.get_rng_state()
    run(task, schedule=At(WIDER, epoch=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_steps_and_flops_add_up(task):
    model, rounds = run(task)
    images = task.prepared(task.train.inputs[:16])
    per_step = step_flops(model, images, task.train.labels[:16])
    assert [r.point.step for r in rounds] == [0, 6, 12, 18, 24]
    assert [r.point.flops for r in rounds] == [per_step * r.point.step for r in rounds]


def test_accuracy_is_measured_in_eval_mode_and_changes_nothing(task):
    model = Net().train()
    before = copy.deepcopy(model.state_dict())
    right = accuracy(model, task, task.validation)
    assert model.training
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)
    guesses = model.eval()(task.prepared(task.validation.inputs)).argmax(1)
    assert right == (guesses == task.validation.labels).float().mean().item()


def test_a_growth_gets_the_users_own_objects_once_at_its_epoch(task):
    calls = []

    @dataclass(frozen=True)
    class Spy:
        def plan(self, subject, seed):
            assert all(parameter.grad is None for parameter in subject.model.parameters())
            moments = {id(p) for p in training.optimizer.state}
            assert moments == {id(p) for p in subject.model.parameters()}
            example = subject.calls[0][0][0]
            calls.append((subject.model, example.shape[1:], example.dtype))
            return WIDER.plan(subject, seed)

    training = made(task, schedule=At(Spy(), epoch=2))
    rounds = list(training.rounds())
    assert calls == [(training.model, (1, 4, 4), torch.float32)]
    assert type(training.model) is Net
    assert type(training.optimizer) is torch.optim.AdamW
    assert [len(round.growths) for round in rounds] == [0, 0, 1, 0, 0]
    (grown,) = rounds[2].growths
    flops, receipt = rounds[2].point.flops, grown.receipt
    assert grown == Grown(2, 12, flops, 0, grown.seconds, receipt)
    assert grown.seconds > rounds[2].point.seconds
    assert receipt.plan is training.history[0]


def test_waiting_for_a_growth_changes_nothing(task):
    alone, _ = run(task)
    waited, rounds = run(task, schedule=OnPlateau("accuracy", WIDER, patience=99))
    assert not any(round.growths for round in rounds)
    assert torch.equal(alone.head.weight, waited.head.weight)


def test_a_growth_after_the_last_epoch_changes_nothing_before_it(task):
    _, alone = run(task)
    _, grown = run(task, schedule=At(WIDER, epoch=4))
    seen = [[(r.point.loss, r.point.accuracy) for r in rounds[1:]] for rounds in (alone, grown)]
    assert seen[0] == seen[1]
    assert grown[-1].growths


def test_flops_are_counted_anew_after_a_growth(task):
    _, rounds = run(task, schedule=At(WIDER, epoch=2))
    for name in ("flops", "paper_flops"):
        spent = [getattr(b.point, name) - getattr(a.point, name) for a, b in pairwise(rounds)]
        if name == "flops":
            assert spent == [spent[0], spent[0], 2 * spent[0], 2 * spent[0]]
        else:
            assert spent == [0, 0, 0, 0], "this network has no convolution"
    assert rounds[-1].point.parameters > rounds[0].point.parameters


def test_a_growth_before_the_first_epoch_follows_the_first_measurement(task):
    _, rounds = run(task, schedule=At(WIDER, epoch=0))
    assert [len(round.growths) for round in rounds] == [1, 0, 0, 0, 0]
    assert rounds[0].point.parameters < rounds[1].point.parameters


def test_a_loss_that_is_no_number_stops_the_run(task):
    model = Net()
    nn.init.constant_(model.head.bias, math.inf)
    with pytest.raises(LabError, match="loss of epoch 1 is nan"):
        run(task, model=model)


def test_the_rate_of_every_group_follows_the_recipe(task):
    training = made(task)
    rates = watched(training)
    list(training.rounds())
    assert rates == [RECIPE.rate((i + 0.5) / 24) for i in range(24)]


@pytest.mark.parametrize("augment", [True, False])
def test_images_are_varied_if_asked_drawn_from_what_a_state_keeps(task, monkeypatch, augment):
    sources = []

    def noted(images, generator):
        sources.append(generator)
        return augmented(images, generator)

    monkeypatch.setattr("gnomon.lab.training.train.augmented", noted)
    training = made(task, replace(RECIPE, augment=augment))
    list(training.rounds())
    assert len(sources) == (24 if augment else 0)
    assert all(source is training.order for source in sources)


def watched(training):
    """The rates of all steps to come."""
    rates = []
    hook = lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"])  # noqa: E731
    training.optimizer.register_step_pre_hook(hook)
    return rates


# --- a budget of FLOPs


def cost(model=None):
    images, labels = torch.zeros(16, 1, 4, 4), torch.zeros(16).long()
    return step_flops(model or Net(), images, labels)


@pytest.mark.parametrize("extra", [0, 1, -1])
def test_training_ends_with_the_last_step_that_the_budget_pays(task, extra):
    budget = 15 * cost() + extra
    _, rounds = run(task, replace(RECIPE, epochs=99, flops=budget))
    steps = 15 if extra >= 0 else 14
    assert [round.point.step for round in rounds] == [0, 6, 12, steps]
    assert rounds[-1].point.flops == steps * cost() <= budget


@pytest.mark.parametrize("schedule", [None, At(WIDER, epoch=2), At(WIDER, epoch=0)])
def test_the_rate_falls_to_zero_as_the_budget_ends_also_with_a_growth_in_between(task, schedule):
    training = made(task, replace(RECIPE, epochs=99, flops=100 * cost()), schedule)
    rates = watched(training)
    rounds = list(training.rounds())
    large = training.cost.full
    assert large == (cost() if schedule is None else 2 * cost())
    assert 100 * cost() - large < rounds[-1].point.flops <= 100 * cost()
    assert max(rates) > 0.99 * RECIPE.lr
    assert rates[-1] < 1e-3 * RECIPE.lr
    peak = rates.index(max(rates))
    assert all(a > b for a, b in pairwise(rates[peak:]))


def test_the_epochs_end_a_training_before_its_budget(task):
    training = made(task, replace(RECIPE, flops=10**12))
    rates = watched(training)
    assert list(training.rounds())[-1].point.epoch == 4
    assert rates[-1] < 0.01 * RECIPE.lr


def test_a_budget_below_one_step_is_refused_before_anything_is_trained(task):
    training = made(task, replace(RECIPE, flops=cost() - 1))
    before = kept(training)
    with pytest.raises(LabError, match=r"one step takes [\d,]+ FLOPs.*0 are spent already"):
        list(training.rounds())
    assert alike(before["model"], kept(training)["model"])


def test_a_budget_that_is_spent_already_is_refused(task):
    spent = Spent(epoch=3, step=18, flops=18 * cost())
    training = made(task, replace(RECIPE, flops=18 * cost() + 5), spent=spent)
    with pytest.raises(LabError, match=f"{18 * cost():,} are spent already"):
        list(training.rounds())


def test_a_growth_that_the_budget_cannot_pay_for_is_refused(task):
    with pytest.raises(LabError, match="Training cannot begin: one step takes"):
        run(task, replace(RECIPE, flops=cost()), At(WIDER, epoch=0))


def test_a_growth_that_leaves_no_step_ends_the_training_between_epochs(task):
    _, rounds = run(task, replace(RECIPE, flops=7 * cost()), At(WIDER, epoch=1))
    assert [round.point.step for round in rounds] == [0, 6]


# --- going on


OPTIMIZERS = ("adamw", "adam", "amsgrad", "sgd")
GROWING = At(WIDER, epoch=1) + At(Deepen("stem.2"), epoch=2)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_training_goes_on_from_its_state_to_the_same_bits(task, optimizer):
    recipe = replace(RECIPE, optimizer=optimizer, augment=True)

    def begun():
        torch.manual_seed(3)
        return made(task, recipe, GROWING, DropoutNet())

    whole = begun()
    rounds = list(whole.rounds())
    state = None
    for expected in rounds:
        training = begun()
        if state is not None:
            model = DropoutNet()
            history = regrown(model, state)
            training = made(task, recipe, GROWING, model, history=history)
            training.load_state_dict(state)
        round = next(training.rounds())
        state = kept(training)
        assert timeless(round) == timeless(expected)
    assert alike(state["model"], whole.model.state_dict())
    assert alike(state["optimizer"], whole.optimizer.state_dict())
    with pytest.raises(StopIteration):
        next(training.rounds())


def timeless(round):
    point = replace(round.point, seconds=0)
    growths = [replace(g, seconds=0, receipt=None) for g in round.growths]
    return repr(Round(point, tuple(growths))), [g.receipt.plan.to_json() for g in round.growths]


def test_a_state_holds_text_and_tensors_alone(task):
    training = made(task, schedule=GROWING, model=DropoutNet())
    list(training.rounds())

    def plain(value):
        if isinstance(value, dict):
            return all(plain(k) and plain(v) for k, v in value.items())
        if isinstance(value, list | tuple):
            return all(map(plain, value))
        return value is None or type(value) in (str, int, float, bool, torch.Tensor)

    assert all(plain(v) for k, v in training.state_dict().items() if k != "model")
    kept(training)


# --- beginning with another one's network


def taught(task, **more):
    training = made(task, replace(RECIPE, **more), At(WIDER, epoch=4))
    list(training.rounds())
    return training


def heir(task, state, recipe=RECIPE, *, carry):
    model = Net()
    training = made(task, recipe, model=model, history=regrown(model, state))
    training.inherit(state, carry=carry)
    return training


def test_a_network_that_is_given_starts_with_fresh_counters_and_a_fresh_optimizer(task):
    teacher = taught(task)
    student = heir(task, kept(teacher), carry=False)
    assert alike(student.model.state_dict(), teacher.model.state_dict())
    assert student.spent == student.start == Spent()
    assert not student.optimizer.state
    assert torch.equal(student.order.get_state(), torch.Generator().manual_seed(0).get_state())
    assert [round.point.epoch for round in student.rounds()] == [0, 1, 2, 3, 4]
    assert [p.to_json() for p in student.history] == [p.to_json() for p in teacher.history]


def test_a_training_that_is_carried_on_counts_all_that_was_spent(task):
    teacher = taught(task)
    student = heir(task, kept(teacher), carry=True)
    assert student.spent == teacher.spent
    assert student.spent.seconds > 0
    rounds = list(student.rounds())
    assert [round.point.epoch for round in rounds] == [4, 5, 6, 7, 8]
    assert [round.point.step for round in rounds] == [24, 30, 36, 42, 48]
    assert rounds[0].point.flops == 24 * cost()
    assert rounds[-1].point.flops == 24 * cost() + 24 * cost(Net(12))
    assert rounds[-1].point.seconds > teacher.spent.seconds


def test_a_training_that_is_carried_on_keeps_its_moments_and_sees_other_batches(task):
    teacher = taught(task)
    state = kept(teacher)
    student = heir(task, state, carry=True)
    assert alike(student.optimizer.state_dict()["state"], state["optimizer"]["state"])
    assert len(student.optimizer.state) == len([*student.model.parameters()])
    assert torch.equal(student.order.get_state(), state["order"])


def test_a_training_that_is_carried_on_follows_its_own_recipe(task):
    recipe = replace(RECIPE, epochs=2, lr=3e-3, weight_decay=0.5)
    student = heir(task, kept(taught(task)), recipe, carry=True)
    rates = watched(student)
    list(student.rounds())
    assert rates == [recipe.rate((i + 0.5) / 12) for i in range(12)]
    assert {group["weight_decay"] for group in student.optimizer.param_groups} == {0.5}


def test_what_a_growth_spared_from_weight_decay_stays_spared(task):
    state = kept(taught(task))
    state["optimizer"]["param_groups"].append(
        state["optimizer"]["param_groups"][0] | {"weight_decay": 0.0, "params": []}
    )
    plain = json.loads(state["growth"]["plain"])
    plain["groups"][0].append([])
    state["growth"]["plain"] = json.dumps(plain)
    student = heir(task, state, replace(RECIPE, weight_decay=0.5), carry=True)
    assert [g["weight_decay"] for g in student.optimizer.param_groups] == [0.5, 0.0]


def test_growths_of_a_carried_training_are_counted_from_its_own_start(task):
    state, model = kept(taught(task)), Net()
    history = regrown(model, state)
    training = made(task, RECIPE, At(WIDER, epoch=1), model, history=history)
    training.inherit(state, carry=True)
    rounds = list(training.rounds())
    assert [len(round.growths) for round in rounds] == [0, 1, 0, 0, 0]
    assert len(training.history) == 2


def test_a_carried_budget_counts_what_was_spent_before(task):
    state = kept(taught(task))
    recipe = replace(RECIPE, epochs=99, flops=24 * cost() + 10 * cost(Net(12)))
    student = heir(task, state, recipe, carry=True)
    rates = watched(student)
    rounds = list(student.rounds())
    assert rounds[-1].point.step == 24 + 10
    assert rates[-1] < 0.05 * max(rates), "the rate falls over what is left"
    with pytest.raises(LabError, match="spent already"):
        list(heir(task, state, replace(recipe, flops=24 * cost()), carry=True).rounds())


# --- the machine


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_other_precisions_train_and_grow(task, precision):
    timeline = Timeline(At(WIDER, epoch=1))
    machine = Machine("cpu", precision)
    training = Training(Net(), task, RECIPE, machine=machine, timeline=timeline)
    points = [round.point for round in training.rounds()]
    assert points[-1].accuracy == 1.0
    assert training.model.hidden.weight.shape == (12, 16)
    assert accuracy(training.forward, task, task.test) == 1.0


def test_a_device_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(LabError, match="cuda cannot be used"):
        Machine("cuda").fabric()


def test_an_epoch_of_so_many_steps_is_measured_and_grows_behind_them(task):
    """96 images are six steps of 16: after four a growth, after fourteen the end."""
    recipe = replace(RECIPE, epochs=7, steps=2)
    model, rounds = run(task, recipe, At(WIDER, step=4))
    assert [round.point.step for round in rounds] == [0, 2, 4, 6, 8, 10, 12, 14]
    assert [len(round.growths) for round in rounds] == [0, 0, 1, 0, 0, 0, 0, 0]
    assert model.hidden.out_features == 12


def test_longer_epochs_pass_through_all_images_again_and_again(task):
    """96 images are six steps: fourteen are two passes, and two batches of a third."""
    training = made(task, replace(RECIPE, steps=14))
    rows = training._rows()
    assert rows.shape == (14, 16)
    for first in (0, 6):
        assert rows[first : first + 6].flatten().sort().values.tolist() == list(range(96))
    assert len(rows[12:].unique()) == 32
    whole = made(task, RECIPE)
    assert torch.equal(whole._rows(), made(task, replace(RECIPE, steps=6))._rows())


def test_a_training_in_short_epochs_goes_on_to_the_same_bits(task):
    recipe = replace(RECIPE, epochs=3, steps=4)
    through = made(task, recipe)
    list(through.rounds())
    first = made(task, recipe)
    for round in first.rounds():
        if round.point.epoch == 1:
            break
    second = made(task, recipe)
    second.load_state_dict(kept(first))
    list(second.rounds())
    assert alike(through.model.state_dict(), second.model.state_dict())
