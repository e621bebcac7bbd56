"""When to grow: moments come once, in order, and a timeline can be saved and resumed."""

import contextlib
import json

import pytest
import torch

import gnomon as gn
from gnomon.models import CharGPT, ResNetCifar10
from gnomon.schedule import At, Every, OnPlateau, Timeline
from gnomon.simulation import simulate

WIDER, DEEPER = gn.Widen("stage1", by=1.5), gn.Deepen("stage1.1")
X = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def grower():
    torch.manual_seed(0)
    return gn.Grower(ResNetCifar10(1 / 8), X)


class Counting:
    """Stands for a grower: remembers what was asked."""

    def __init__(self):
        self.asked = []

    def moment(self):
        return contextlib.nullcontext()

    def grow(self, morph, *, seed):
        self.asked.append((morph, seed))
        return len(self.asked)


def played(schedule, moments):
    """At which moments how many growths happen."""
    timeline, counting = Timeline(schedule), Counting()
    return [len(timeline.advance(counting, **moment)) for moment in moments]


def steps(*numbers):
    return [{"step": n} for n in numbers]


def test_at_comes_once_also_when_its_moment_was_passed_over():
    #                                          0  9 10 11 50
    assert played(At(WIDER, step=10), steps(0, 9, 10, 11, 50)) == [0, 0, 1, 0, 0]
    assert played(At(WIDER, step=10), steps(0, 50, 60)) == [0, 1, 0]
    assert played(At([WIDER, DEEPER], epoch=2), [{"epoch": e} for e in range(4)]) == [0, 0, 2, 0]
    assert played(At(WIDER, step=0), steps(0, 1)) == [1, 0]


def test_every_comes_for_each_multiple_and_stops():
    assert played(Every(10, WIDER), steps(0, 9, 10, 15, 20, 45)) == [0, 0, 1, 0, 1, 2]
    assert played(Every(10, WIDER, until=20), steps(10, 20, 30, 40)) == [1, 1, 0, 0]
    epochs = [{"step": 100 * e, "epoch": e} for e in range(5)]
    assert played(Every(2, WIDER, unit="epoch"), epochs) == [0, 0, 1, 0, 1]


def test_a_plateau_waits_for_the_metric_and_starts_anew_after_a_growth():
    values = [0.5, 0.6, 0.6, 0.55, 0.6, 0.61, float("nan"), 0.6, 0.6]
    moments = [{"metrics": {"accuracy": v}} for v in values]
    schedule = OnPlateau("accuracy", WIDER, patience=3, most=2)
    assert played(schedule, moments) == [0, 0, 0, 0, 1, 0, 0, 0, 1]
    assert played(schedule, [{"metrics": {"loss": 1.0}}] * 9) == [0] * 9
    falling = [{"metrics": {"loss": v}} for v in (3.0, 2.0, 1.95, 1.9)]
    assert played(OnPlateau("loss", WIDER, patience=2, mode="min", margin=0.2), falling)[-1] == 1


def test_schedules_add_up_each_with_its_own_memory():
    both = At(WIDER, step=10) + Every(10, DEEPER, until=30) + At(WIDER, step=5)
    assert played(both, steps(5, 10, 20, 30, 40)) == [1, 2, 1, 1, 0]


def test_a_timeline_goes_on_where_it_was_saved():
    schedule = Every(10, WIDER) + OnPlateau("accuracy", DEEPER, patience=2)
    moments = [{"step": s, "metrics": {"accuracy": 0.5}} for s in range(0, 60, 5)]
    whole, first, second = Counting(), Counting(), Counting()
    timeline = Timeline(schedule, seed=7)
    for moment in moments:
        timeline.advance(whole, **moment)
    timeline = Timeline(schedule, seed=7)
    for moment in moments[:5]:
        timeline.advance(first, **moment)
    resumed = Timeline(schedule)
    resumed.load_state_dict(json.loads(json.dumps(timeline.state_dict())))
    for moment in moments[5:]:
        resumed.advance(second, **moment)
    assert first.asked + second.asked == whole.asked
    assert [seed for _, seed in whole.asked] == list(range(7, 7 + len(whole.asked)))


def test_a_refused_growth_is_an_error_and_the_model_is_what_it_was():
    g = grower()
    before = g.model.state_dict()
    with pytest.raises(gn.NoSuchGroup):
        Timeline(At(gn.Widen("nowhere", by=2), step=1)).advance(g, step=1)
    assert all(torch.equal(x, before[n]) for n, x in g.model.state_dict().items())


def test_a_simulation_has_the_sizes_that_growing_has():
    schedule = Every(100, WIDER, until=200) + At([DEEPER, gn.Factor("stem.conv")], epoch=2)
    g = grower()
    shown = simulate(schedule, g, steps=300, epochs=3, steps_per_epoch=75)
    assert [(s.unit, s.number) for s in shown.sizes] == [
        ("step", 0),
        ("step", 100),
        ("epoch", 2),
        ("epoch", 2),
        ("step", 200),
    ]
    assert sum(p.numel() for p in g.model.parameters()) == shown.sizes[0].parameters
    morphs = (WIDER, DEEPER, gn.Factor("stem.conv"), WIDER)
    for size, morph in zip(shown.sizes[1:], morphs, strict=True):
        receipt = g.grow(morph)
        assert (receipt.parameters[1], receipt.flops[1]) == (size.parameters, size.flops)
        assert size.widths == tuple((w.group, w.new) for w in receipt.plan.widths)
    assert "step 100" in str(shown) and "Deepen('stage1.1'" in str(shown)


def test_a_simulation_knows_that_a_growth_moves_the_eps_of_norms():
    model, tokens = CharGPT(11, block=8), torch.randint(0, 11, (2, 8))
    wider = gn.Widen("characters", by=1.5, rule=gn.NetMorph(zero="writers"))
    g = gn.Grower(model, tokens)
    shown = simulate(At(wider, epoch=0), g, epochs=1)
    assert g.grow(wider).parameters == tuple(size.parameters for size in shown.sizes)


def test_a_simulation_touches_nothing_and_draws_nothing():
    g = grower()
    before, generator = g.model.state_dict(), torch.get_rng_state()
    simulate(Every(1, WIDER, until=3), g, steps=3)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(x, before[n]) for n, x in g.model.state_dict().items())


@pytest.mark.parametrize(
    "make",
    [
        lambda: At(WIDER),
        lambda: At(WIDER, step=1, epoch=1),
        lambda: At(WIDER, step=-1),
        lambda: At("wider", step=1),
        lambda: At([], step=1),
        lambda: Every(0, WIDER),
        lambda: Every(5, WIDER, until=3),
        lambda: Every(5, WIDER, unit="minute"),
        lambda: OnPlateau("loss", WIDER, patience=0),
        lambda: OnPlateau("loss", WIDER, mode="best"),
        lambda: OnPlateau("loss", [WIDER, 3]),
    ],
)
def test_a_schedule_that_makes_no_sense_is_a_value_error(make):
    with pytest.raises(ValueError):
        make()
