"""Factors on the whole learning rate: exact in every step, and no scheduler notices them."""

import copy
import math

import pytest
import torch
from stepping import ALL, DEEPER, RATE, WIDER, assert_equal, grown, learn, network, twin
from stepping import gradients as make_gradients
from torch.optim import lr_scheduler as schedulers

import gnomon as gn
from gnomon.adjustments import Pace, rates

every_optimizer = pytest.mark.parametrize("name", ALL)


@every_optimizer
@pytest.mark.parametrize(
    ("after", "factors"),
    [
        (gn.DivideRate(5), lambda ratio: [0.2] * 4),
        (gn.BySize(), lambda ratio: [ratio] * 4),
        (gn.BySize(0.5), lambda ratio: [math.sqrt(ratio)] * 4),
        (gn.Rewarm(4), lambda ratio: [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]),
        (gn.Rewarm(2, start=0.5), lambda ratio: [0.5, 0.75, 1.0]),
        ([gn.DivideRate(2), gn.Rewarm(2, 0.5)], lambda ratio: [0.25, 0.375, 0.5]),
    ],
    ids=["divided", "by size", "by its root", "rewarm", "rewarm from half", "divided, rewarm"],
)
def test_each_step_is_the_plain_optimizers_at_the_rate_times_the_factor(name, after, factors):
    model, optimizer = network(name)
    (receipt,) = grown(model, optimizer, after)
    old, new = receipt.parameters
    before = [copy.deepcopy(g["lr"]) for g in optimizer.param_groups]
    for step, factor in enumerate(factors(old / new)):
        assert rates(optimizer) == pytest.approx([RATE * factor], rel=1e-15)
        other, own = twin(model, optimizer, lr=optimizer.param_groups[0]["lr"] * factor)
        learn(other, own, 1, start=step)
        learn(model, optimizer, 1, start=step)
        assert_equal(model, other)
        assert [g["lr"] for g in optimizer.param_groups] == before


def test_two_growths_multiply_and_a_climb_begins_anew():
    model, optimizer = network()
    first, second = grown(model, optimizer, [gn.BySize(), gn.Rewarm(4)], WIDER, DEEPER)
    learn(model, optimizer, 2)
    ratio = first.parameters[0] / second.parameters[1]
    assert rates(optimizer) == pytest.approx([RATE * ratio * 0.5], rel=1e-15)
    grown(model, optimizer, gn.Rewarm(4, start=0.25), DEEPER)
    assert rates(optimizer) == pytest.approx([RATE * ratio * 0.25], rel=1e-15)


def hand_set(optimizer):
    """A loop's own schedule."""

    class Own:
        count = 0

        def step(self, metric=None):
            self.count += 1
            for group in optimizer.param_groups:
                group["lr"] = RATE / (1 + self.count)

    return Own()


CURVES = {
    "LambdaLR": lambda o: schedulers.LambdaLR(o, lambda step: 1 / (1 + step)),
    "CosineAnnealingLR": lambda o: schedulers.CosineAnnealingLR(o, T_max=6),
    "StepLR": lambda o: schedulers.StepLR(o, 2),
    "ExponentialLR": lambda o: schedulers.ExponentialLR(o, 0.7),
    "OneCycleLR": lambda o: schedulers.OneCycleLR(o, 0.1, total_steps=14),
    "CyclicLR": lambda o: schedulers.CyclicLR(o, 0.001, 0.1, 3, cycle_momentum=False),
    "warm restarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, 3),
    "SequentialLR": lambda o: schedulers.SequentialLR(
        o, [schedulers.LinearLR(o, 0.1, total_iters=3), schedulers.ExponentialLR(o, 0.8)], [4]
    ),
    "ChainedScheduler": lambda o: schedulers.ChainedScheduler(
        [schedulers.LinearLR(o, 0.1, total_iters=3), schedulers.ExponentialLR(o, 0.8)]
    ),
    "by hand": hand_set,
}


def used(optimizer):
    """A list that gets the rate that each step is really made with."""
    found = []

    def see(optimizer, args, kwargs):
        found.append(float(args[0].param_groups[0]["lr"]))

    optimizer.register_step_post_hook(see)
    return found


@pytest.mark.parametrize("tensor", [False, True], ids=["number", "tensor"])
@pytest.mark.parametrize("curve", CURVES)
def test_a_schedule_keeps_its_curve_times_the_factor(curve, tensor):
    name = "tensor rate" if tensor else "AdamW"
    shown, really = [], []
    for after in (gn.Keep(), [gn.DivideRate(5), gn.Rewarm(2, start=0.5)]):
        model, optimizer = network(name)
        schedule = CURVES[curve](optimizer)
        seen = used(optimizer)
        for step in range(10):
            if step == 4:
                grown(model, optimizer, after)
            learn(model, optimizer, 1, start=step)
            schedule.step()
        shown.append([float(g["lr"]) for g in optimizer.param_groups])
        really.append(seen)
    assert shown[0] == shown[1]
    factors = [1.0] * 4 + [0.1, 0.15] + [0.2] * 4
    assert really[1] == pytest.approx([r * f for r, f in zip(really[0], factors, strict=True)])


def test_a_plateau_schedule_divides_its_own_rate_only():
    model, optimizer = network()
    schedule = schedulers.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
    grown(model, optimizer, gn.DivideRate(4))
    for step, rate in enumerate([RATE, RATE / 2, RATE / 4]):
        learn(model, optimizer, 1, start=step)
        schedule.step(1.0)
        assert optimizer.param_groups[0]["lr"] == rate
        assert rates(optimizer) == [rate / 4]


def test_a_scheduler_made_before_the_hooks_is_not_in_the_way_and_does_not_warn():
    model, optimizer = network()
    schedule = schedulers.StepLR(optimizer, 1)
    grown(model, optimizer, gn.DivideRate(5))
    learn(model, optimizer, 1)
    schedule.step()
    assert rates(optimizer) == pytest.approx([RATE * 0.1 / 5])


@pytest.mark.parametrize("where", ["closure", "hook", "step"])
def test_a_step_that_raises_leaves_rates_gradients_and_counts_as_they_were(where):
    model, optimizer = network("Adam")
    grown(model, optimizer, [gn.DivideRate(5), gn.Rewarm(4), gn.NewWeights(0.5, decay=0.0)])
    make_gradients(model, optimizer, 0)
    held = [(p, p.grad) for p in model.parameters()]
    course = Pace.on(optimizer).course

    def fails(*args):
        raise OSError("stop")

    handle = None
    if where == "hook":
        handle = optimizer.register_step_pre_hook(fails)
    if where == "step":
        held[-1][0].grad = held[-1][1].to_sparse()  # which Adam refuses
    with pytest.raises((OSError, RuntimeError)):
        optimizer.step(fails if where == "closure" else None)
    assert optimizer.param_groups[0]["lr"] == RATE and Pace.on(optimizer).course is course
    if handle is not None:
        handle.remove()
    held[-1][0].grad = held[-1][1]
    other, own = twin(model, optimizer, lr=0.0)
    learn(other, own, 1, start=7)
    learn(model, optimizer, 1, start=7)
    assert_equal(model, other)


def test_gradients_that_a_failed_step_had_changed_are_put_back():
    model, optimizer = network("Adam")
    grown(model, optimizer, gn.NewWeights(decay=0.0))
    make_gradients(model, optimizer, 0)
    held = [(p, p.grad.clone()) for p in model.parameters()]
    seen = []

    def fails(*args):
        seen.append([p.grad.clone() for p in model.parameters()])
        raise OSError("stop")

    optimizer.register_step_pre_hook(fails)
    for _ in range(2):
        with pytest.raises(OSError):
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))  # decay taken off once
    assert not all(torch.equal(a, g) for a, (_, g) in zip(seen[0], held, strict=True))


@pytest.mark.parametrize("name", ["AdamW", "Adam", "SGD", "Adam fused", "SGD fused"])
def test_a_gradient_scaler_changes_nothing_and_a_skipped_step_does_not_count(name):
    ends = []
    for scale in (1.0, 1024.0):
        model, optimizer = network(name)
        after = [gn.DivideRate(5), gn.Rewarm(4, 0.5), gn.NewWeights(0.5, 3, decay=0.25)]
        grown(model, optimizer, after)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=100)
        for step in range(5):
            make_gradients(model, optimizer, step)
            for p in model.parameters():
                p.grad.mul_(scale)
                if step == 2:
                    p.grad.fill_(float("inf"))
            scaler.scale(torch.ones(1))  # makes the scale
            before = [p.detach().clone() for p in model.parameters()]
            course = Pace.on(optimizer).course
            scaler.step(optimizer)
            if step == 2:
                same = zip(model.parameters(), before, strict=True)
                assert all(torch.equal(p, b) for p, b in same)
                assert Pace.on(optimizer).course is course
                scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=100)
            else:
                scaler.update()
        ends.append(model)
    assert_equal(*ends)


def test_closures_make_the_same_steps():
    ends = []
    for closed in (False, True):
        model, optimizer = network("Adam")
        grown(model, optimizer, [gn.DivideRate(2), gn.NewWeights(0.5, 2, decay=0.0)])
        for step in range(4):

            def closure(step=step, model=model, optimizer=optimizer):
                make_gradients(model, optimizer, step)
                return 3.0

            if closed:
                assert optimizer.step(closure) == 3.0
            else:
                closure()
                optimizer.step()
        ends.append(model)
    assert all(torch.equal(p, q) for p, q in zip(*(m.parameters() for m in ends), strict=True))


def test_keep_makes_no_hook_and_the_same_bits():
    ends = []
    for after in ((), gn.Keep()):
        model, optimizer = network()
        grown(model, optimizer, after)
        learn(model, optimizer, 3)
        assert Pace.on(optimizer) is None
        ends.append(model)
    assert all(torch.equal(p, q) for p, q in zip(*(m.parameters() for m in ends), strict=True))


def test_what_a_step_writes_on_its_optimizer_and_groups_is_kept():
    class Counting(torch.optim.SGD):
        def step(self, closure=None):
            self.steps_made = getattr(self, "steps_made", 0) + 1
            self.param_groups[0]["k"] = self.param_groups[0].get("k", 0) + 1
            return super().step(closure)

    model, _ = network()
    optimizer = Counting(model.parameters(), 0.1)
    grown(model, optimizer, gn.DivideRate(4))
    before = model[0].weight.detach().clone()
    learn(model, optimizer, 1)
    moved = model[0].weight.detach() - before
    assert torch.allclose(moved, -0.025 * model[0].weight.grad, rtol=1e-9)
    assert optimizer.steps_made == 1 and optimizer.param_groups[0]["k"] == 1
