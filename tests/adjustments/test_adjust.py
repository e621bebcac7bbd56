"""adjust, Timeline(after=...) and ResetMoments: what acts when, and what is refused."""

import copy

import pytest
import torch
from stepping import ALL, DEEPER, RATE, WIDER, assert_equal, grown, learn, network
from torch import nn

import gnomon as gn
from gnomon.adjustments import Pace, rates
from gnomon.editing.first_gradients import FirstGradients


def growing(schedule, after, name="AdamW"):
    model, optimizer = network(name)
    grower = gn.Grower(model, torch.randn(4, 3).double(), optimizer)
    return gn.Timeline(schedule, after=after), grower, optimizer


def test_a_timeline_adjusts_after_each_growth():
    timeline, grower, optimizer = growing(gn.Every(2, WIDER), gn.DivideRate(2))
    found = []
    for step in range(7):
        timeline.advance(grower, step=step)
        found.append(rates(optimizer)[0])
        if step == 5:  # two multiples at once count twice
            assert timeline.advance(grower, step=8) and timeline.grown == 4
    assert found == [RATE, RATE, RATE / 2, RATE / 2, RATE / 4, RATE / 4, RATE / 16]


def test_all_optimizers_of_a_grower_are_adjusted():
    model, _ = network()
    first = torch.optim.SGD(model[:2].parameters(), 1.0)
    second = torch.optim.Adam(model[2:].parameters(), 0.1)
    grower = gn.Grower(model, torch.randn(4, 3).double(), [first, second])
    gn.adjust(grower, grower.grow(WIDER), [gn.DivideRate(4), gn.NewWeights(0.5)])
    assert rates(first) + rates(second) == [0.25, 0.025]
    sizes = [len(Pace.on(o).course.young[0].entries) for o in (first, second)]
    assert sum(sizes) <= len(list(model.parameters())) and all(sizes)


def test_whole_new_parameters_beside_tied_ones_are_the_only_new_entries():
    layers = (
        nn.Linear(3, 6),
        nn.Tanh(),
        nn.Linear(6, 6),
        nn.Tanh(),
        nn.Linear(6, 6),
        nn.Linear(6, 2),
    )
    model = nn.Sequential(*layers).double()
    model[4].weight = model[2].weight
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    grower = gn.Grower(model, torch.randn(4, 3).double(), optimizer)
    gn.adjust(grower, grower.grow(gn.Deepen("5")), gn.NewWeights(0.5))
    entries = Pace.on(optimizer).course.young[0].entries
    assert all(p is not model[2].weight for p in entries)
    new, before = next(iter(entries)), next(iter(entries)).detach().clone()
    model(torch.randn(4, 3).double()).sum().backward()
    optimizer.step()
    assert torch.allclose(new, before - 0.05 * new.grad, rtol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_reset_moments_go_on_as_a_new_optimizer_does(name):
    model, optimizer = network(name, steps=20)
    grown(model, optimizer, gn.ResetMoments(), gn.Widen(["0", "2"], by=2), DEEPER)
    assert not optimizer.state
    other = copy.deepcopy(model)
    new = ALL[name](other.parameters())
    if name == "RMSprop":
        return  # below
    for step in range(12):
        learn(model, optimizer, 1, step), learn(other, new, 1, step)
    assert_equal(model, other)
    assert not FirstGradients.on(optimizer) or not FirstGradients.on(optimizer)._waiting


def test_reset_moments_wait_for_nothing_and_do_not_kick_rmsprop():
    for name in ("AdamW", "RMSprop"):
        timeline, grower, optimizer = growing(gn.At(WIDER, step=0), gn.ResetMoments(), name)
        timeline.advance(grower)
        for group in optimizer.param_groups:
            group["weight_decay"] = 0.0
        hook = FirstGradients.on(optimizer)
        assert not hook._waiting and bool(hook._stateless) == (name == "RMSprop")
        before = {p: p.detach().clone() for p in grower.model.parameters()}
        learn(grower.model, optimizer, 1)
        largest = max(float((p.detach() - b).abs().max()) for p, b in before.items())
        assert largest <= 1.01 * RATE


def test_a_grower_without_an_optimizer_is_an_error_at_the_first_call():
    grower = gn.Grower(network()[0], torch.randn(4, 3).double())
    timeline = gn.Timeline(gn.At(WIDER, step=9), after=gn.DivideRate(5))
    with pytest.raises(gn.Unsupported, match="no optimizer"):
        timeline.advance(grower, step=0)
    gn.Timeline(gn.At(WIDER, step=0), after=gn.Keep()).advance(grower)
    assert grower.history


def test_what_an_optimizer_cannot_have_is_refused_before_the_growth():
    model, _ = network()

    class Foreign(torch.optim.Optimizer):
        def __init__(self, params):
            super().__init__(params, {"lr": 0.1, "weight_decay": 0.1})

    for make, after in (
        (torch.optim.Rprop, gn.DivideRate(5)),
        (torch.optim.ASGD, gn.Rewarm(5)),
        (torch.optim.Rprop, gn.ByGradient()),
        (torch.optim.ASGD, gn.BySize()),
        (Foreign, gn.NewWeights(decay=0.5)),
        (torch.optim.Rprop, gn.NewWeights(0.5)),
    ):
        grower = gn.Grower(model, torch.randn(4, 3).double(), make(model.parameters()))
        with pytest.raises(gn.Unsupported, match=type(after).__name__):
            gn.Timeline(gn.At(WIDER, step=0), after=after).advance(grower)
    assert model[0].out_features == 6


def test_an_adjustment_that_raises_leaves_the_growth_and_no_course():
    class Odd(gn.Keep().__class__.__base__):
        def changed(self, course, optimizer, growth):
            raise OSError("stop")

    model, optimizer = network()
    grower = gn.Grower(model, torch.randn(4, 3).double(), optimizer)
    receipt = grower.grow(WIDER)
    state = len(optimizer.state)
    with pytest.raises(OSError):
        gn.adjust(grower, receipt, [gn.DivideRate(5), gn.ResetMoments(), Odd()])
    assert Pace.on(optimizer) is None and len(optimizer.state) == state == 6


def test_only_the_last_growth_can_be_adjusted_to():
    model, optimizer = network()
    grower = gn.Grower(model, torch.randn(4, 3).double(), optimizer)
    first, _ = grower.grow(WIDER), grower.grow(WIDER)
    with pytest.raises(gn.Stale, match="right after"):
        gn.adjust(grower, first, gn.DivideRate(5))


@pytest.mark.parametrize(
    "make",
    [
        lambda: gn.Timeline(gn.At(WIDER, step=1), after=5),
        lambda: gn.Timeline(gn.At(WIDER, step=1), after="DivideRate"),
        lambda: gn.Timeline(gn.At(WIDER, step=1), after=gn.Rewarm),
        lambda: gn.Timeline(gn.At(WIDER, step=1), after=[gn.Keep(), WIDER]),
        lambda: gn.Timeline(gn.At(WIDER, step=1), after=[gn.Rewarm(2), gn.Rewarm(3)]),
        lambda: gn.DivideRate(0),
        lambda: gn.DivideRate(float("nan")),
        lambda: gn.DivideRate("5"),
        lambda: gn.BySize(-1),
        lambda: gn.BySize(float("inf")),
        lambda: gn.Rewarm(0),
        lambda: gn.Rewarm(2.5),
        lambda: gn.Rewarm(5, start=1.5),
        lambda: gn.NewWeights(rate=-1),
        lambda: gn.NewWeights(warmup=-1),
        lambda: gn.NewWeights(decay=True),
        lambda: gn.NewGroup(),
        lambda: gn.NewGroup(params=[]),
        lambda: gn.NewGroup(lr="fast"),
        lambda: gn.NewGroup(lr=-1.0),
        lambda: gn.NewGroup(weight_decay=[0.1]),
        lambda: gn.ByGradient(0),
        lambda: gn.ByGradient(5, least=2.0),
        lambda: gn.ByGradient(5, most=0.5),
        lambda: gn.ByGradient(5, least=0.0),
    ],
)
def test_what_makes_no_sense_is_a_value_error(make):
    with pytest.raises(ValueError):
        make()


def test_adjustments_say_what_they_are_and_compare():
    assert repr(gn.NewGroup(lr=0.1, betas=(0, 0.9))) == "NewGroup(lr=0.1, betas=(0, 0.9))"
    assert gn.NewGroup(lr=0.1) == gn.NewGroup(lr=0.1) != gn.NewGroup(lr=0.2)
    assert len({gn.DivideRate(5), gn.DivideRate(5), gn.NewGroup(lr=1), gn.Keep()}) == 3
    with pytest.raises(AttributeError):
        gn.DivideRate(5).by = 3
