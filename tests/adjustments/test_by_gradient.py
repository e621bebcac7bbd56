"""The ratio of gradient sizes: of means over several steps, within bounds, known a little later."""

import math

import pytest
import torch
from stepping import DEEPER, RATE, WIDER, gradients, grown, network

import gnomon as gn
from gnomon.adjustments import Pace, check_adjustments, rates
from gnomon.adjustments.comparison import Comparison


def seen(comparison, *sizes):
    """What it is and the product of factors, after steps with these gradients."""
    product = 1.0
    for size in sizes:
        comparison, factor = comparison.seen(size)
        product *= factor
    return comparison, product


def test_means_of_the_last_steps_before_and_the_first_after_are_compared():
    comparison, factor = seen(Comparison(2, 0.2, 5.0), 100.0, 1.0, 3.0)
    assert factor == 1
    comparison, factor = comparison.grown()
    assert factor == 1 and comparison.before == (1.0, 3.0)
    comparison, factor = seen(comparison, 3.0)
    assert factor == 1
    comparison, factor = seen(comparison, 5.0, 1000.0)  # one more step changes nothing
    assert factor == 0.5


@pytest.mark.parametrize(("after", "factor"), [(1e9, 0.2), (1e-9, 5.0), (0.0, 5.0), (math.inf, 1)])
def test_noise_cannot_kill_the_training(after, factor):
    comparison, _ = seen(Comparison(1, 0.2, 5.0), 1.0)
    assert seen(comparison.grown()[0], after)[1] == factor


def test_sizes_that_are_not_finite_do_not_count():
    comparison, _ = seen(Comparison(3, 0.2, 5.0), 2.0, math.nan, math.inf)
    assert seen(comparison.grown()[0], math.nan, 4.0, 4.0)[1] == 0.5


def test_a_growth_closes_what_is_still_measured():
    comparison, _ = seen(Comparison(4, 0.2, 5.0), 1.0)
    comparison, _ = seen(comparison.grown()[0], 2.0)
    comparison, factor = comparison.grown()
    assert factor == 0.5 and comparison.before == (2.0,)
    comparison, factor = comparison.grown()  # no step in between: one growth
    assert factor == 1 and seen(comparison, *[4.0] * 4)[1] == 0.5


def by_hand(model):
    return math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters()))


@pytest.mark.parametrize("name", ["AdamW", "SGD", "Adam fused"])
@pytest.mark.parametrize("scale", [1.0, 256.0])
def test_the_factor_is_that_of_the_models_own_gradients(name, scale):
    model, optimizer = network(name)
    after = gn.ByGradient(3, least=0.01, most=100.0)
    check_adjustments([optimizer], after)
    sizes = []
    for step in range(10):
        if step == 5:
            grown(model, optimizer, after)
        now = scale if step >= 5 else 1.0  # else it would cancel
        scaler = torch.amp.GradScaler("cpu", init_scale=now)
        gradients(model, optimizer, step)
        sizes.append(by_hand(model))
        for p in model.parameters():
            p.grad.mul_(now)
        scaler.scale(torch.ones(1))
        if step == 7:
            assert rates(optimizer) == [RATE]
        scaler.step(optimizer)
    ratio = sum(sizes[2:5]) / sum(sizes[5:8])
    assert rates(optimizer) == pytest.approx([RATE * ratio], rel=1e-5)
    assert ratio != pytest.approx(1.0)


def test_a_timeline_watches_from_its_first_call_on():
    model, optimizer = network()
    timeline = gn.Timeline(gn.At([WIDER, DEEPER], step=2), after=gn.ByGradient(2, 0.5, 2.0))
    grower = gn.Grower(model, torch.randn(4, 3).double(), optimizer)
    for step in range(6):
        timeline.advance(grower, step=step)
        gradients(model, optimizer, step)
        optimizer.step()
    assert 0.5 <= Pace.on(optimizer).course.factor <= 2.0 != Pace.on(optimizer).course.factor


def test_a_growth_before_any_step_is_refused_and_nothing_grew():
    model, optimizer = network()
    grower = gn.Grower(model, torch.randn(4, 3).double(), optimizer)
    with pytest.raises(gn.Unsupported, match="has seen none"):
        gn.Timeline(gn.At(WIDER, step=0), after=gn.ByGradient()).advance(grower)
    assert model[0].out_features == 6
