"""Whole new parameters in a group of their own, which only the optimizer's steps see."""

import pytest
import torch
from stepping import ALL, DEEPER, RATE, WIDER, assert_equal, grown, learn, network, plain
from torch.optim import lr_scheduler as schedulers

import gnomon as gn
from gnomon.adjustments import Pace

OPTIONS = {"AdamW": {"betas": (0.5, 0.9), "weight_decay": 0.0}, "SGD": {"momentum": 0.5}}
OPTIONS |= {"Adam fused": {"weight_decay": 0.01}, "RMSprop": {"alpha": 0.5, "eps": 1e-3}}


def apart(model, optimizer, old, **options):
    """A copy where the new parameters really are in a group of their own."""
    import copy

    other, own = copy.deepcopy((model, optimizer))
    twins = dict(zip(model.parameters(), other.parameters(), strict=True))
    new = [q for p, q in twins.items() if all(p is not o for o in old)]
    (group,) = own.param_groups
    group["params"] = [q for q in group["params"] if all(q is not n for n in new)]
    own.param_groups.append({**group, "params": new, **options})
    return other, own


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("lr", [None, RATE / 4])
def test_steps_are_those_of_an_optimizer_that_has_the_group(name, lr):
    model, optimizer = network(name)
    old = list(model.parameters())
    options = OPTIONS[name] | ({} if lr is None else {"lr": lr})
    grown(model, optimizer, [gn.NewGroup(**options), gn.DivideRate(2)], DEEPER)
    assert len(optimizer.param_groups) == 1
    other, own = apart(model, optimizer, old, **options)
    assert len(own.param_groups[1]["params"]) >= 3
    for group in own.param_groups:
        group["lr"] = group["lr"] * 0.5
    for step in range(4):
        learn(other, own, 1, step), learn(model, optimizer, 1, step)
        assert_equal(model, other)


def test_the_rate_follows_the_neighbours_through_a_schedule():
    model, optimizer = network("AdamW")
    schedule = schedulers.LambdaLR(optimizer, [lambda step: 0.5**step])
    used = []
    grown(model, optimizer, gn.NewGroup(lr=3 * RATE), DEEPER)
    see = lambda o, args, kwargs: used.append([g["lr"] for g in args[0].param_groups])  # noqa: E731
    optimizer.register_step_post_hook(see)
    for step in range(3):
        learn(model, optimizer, 1, step)
        schedule.step()
    assert used == [pytest.approx([RATE * f, 3 * RATE * f]) for f in (1, 0.5, 0.25)]


def test_each_neighbours_group_has_its_own_and_a_second_growth_another():
    model, _ = network()
    kernels = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": kernels, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}], RATE
    )
    old = list(model.parameters())
    grown(model, optimizer, gn.NewGroup(lr=RATE / 10), DEEPER)
    seen = Pace.on(optimizer).course.apart
    assert [all(p.dim() == d for p in one.params) for one, d in zip(seen, (2, 1), strict=True)]
    between = list(model.parameters())
    grown(model, optimizer, gn.NewGroup(lr=RATE), gn.Deepen("4"))
    groups = Pace.on(optimizer).course.apart
    assert [one.rate for one in groups] == pytest.approx([0.1, 0.1, 1.0, 1.0])
    held = [p for one in groups for p in one.params]
    assert len(held) == len(list(model.parameters())) - len(old) and len(between) < len(held) + 6
    learn(model, optimizer, 2)


def test_a_widen_makes_no_group_and_later_widening_keeps_it():
    model, optimizer = network()
    grown(model, optimizer, gn.NewGroup(lr=RATE), WIDER)
    assert Pace.on(optimizer) is None
    grown(model, optimizer, gn.NewGroup(lr=RATE / 2), DEEPER)
    before = Pace.on(optimizer).course.apart[0].params
    grown(model, optimizer, (), gn.Widen("*", by=1.5))
    assert all(p is q for p, q in zip(before, Pace.on(optimizer).course.apart[0].params))  # noqa: B905
    learn(model, optimizer, 1)


def test_its_decay_is_what_new_weights_scale():
    model, optimizer = network("AdamW")
    old = list(model.parameters())
    after = [gn.NewGroup(weight_decay=0.5), gn.NewWeights(decay=0.5)]
    grown(model, optimizer, after, DEEPER)
    other, own = apart(model, optimizer, old, weight_decay=0.25)
    learn(other, own, 1), learn(model, optimizer, 1)
    assert_equal(model, other)


@pytest.mark.parametrize("name", ALL)
def test_every_optimizer_takes_a_group(name):
    model, optimizer = network(name)
    old = list(model.parameters())
    grown(model, optimizer, gn.NewGroup(weight_decay=0.0), DEEPER)
    plain(optimizer)
    other, own = apart(model, optimizer, old, weight_decay=0.0)
    learn(other, own, 2), learn(model, optimizer, 2)
    assert_equal(model, other)


def test_what_cannot_be_is_refused_before_anything_grows():
    model, optimizer = network("SGD")
    grower = gn.Grower(model, torch.randn(2, 3).double(), optimizer)
    before = model.state_dict()
    with pytest.raises(gn.Unsupported, match="no option betas"):
        gn.Timeline(gn.At(DEEPER, step=0), after=gn.NewGroup(betas=(0, 0))).advance(grower)
    optimizer.param_groups[0]["lr"] = 0.0
    with pytest.raises(gn.Unsupported, match="learning rate is 0 now"):
        gn.Timeline(gn.At(DEEPER, step=0), after=gn.NewGroup(lr=1.0)).advance(grower)
    assert model.state_dict().keys() == before.keys()
