"""Places where a block cannot stand, or only behind a hook; it is never left dead."""

import math
from collections import namedtuple

import pytest
import torch
from test_zero import Act
from torch import nn

import gnomon as gn
from contracts import answers, change
from gnomon.editing.insertion import RunsDeeper
from small_models import X, small
from toys import TOYS
from untouched import everything, refused

Pair = namedtuple("Pair", "first second")


class Twice(nn.Module):
    def __init__(self, run):
        super().__init__()
        self.a, self.b, self.run = nn.Linear(4, 4), nn.Linear(4, 4), run

    def forward(self, x):
        return self.run(self, x)


def aliased():
    model = Twice(lambda m, x: m.b(m.a(x)) + m.c(x))
    model.c = model.a
    return model


PLACES = {
    "called twice": (lambda: Twice(lambda m, x: m.b(m.a(m.a(x)))), "2 times"),
    "never called": (lambda: Twice(lambda m, x: m.b(x)), "0 times"),
    "only in train mode": (lambda: Twice(lambda m, x: m.b(m.a(x) if m.training else x)), "times"),
    "shared": (aliased, "shared"),
    "integers": (lambda: Twice(lambda m, x: m.b(x) * m.c(x)), "bool"),
}


@pytest.mark.parametrize("what", PLACES)
@pytest.mark.parametrize("rule", [gn.R2R(), gn.Net2Net(), gn.RandPad()], ids=repr)
def test_a_place_where_nothing_can_be_put(what, rule):
    make, says = PLACES[what]
    model, path = make(), "a"
    if what == "integers":
        model.c, path, says = Act(lambda x: x > 0), "c", "not a tensor of floats"
    with refused(gn.Unsupported, f"'{path}'", says, of=model):
        gn.Grower(model, X).grow(gn.Deepen(path, rule))


@pytest.mark.parametrize("path", ["0", "1", "1.0"])
def test_a_container_is_no_layer(path):
    model = nn.Sequential(small(), nn.Sequential(nn.ModuleList([nn.Linear(3, 3)])))
    model[1].forward = lambda x: model[1][0][0](x)
    with refused(gn.Unsupported, "container", f"such as '{path}", of=model):
        gn.Grower(model, X).grow(gn.Deepen(path))


def test_an_attribute_called_deeper_is_not_overwritten():
    class Own(nn.Linear):
        deeper = 3

    model = Act(lambda m, x: m.b(m.a(x)), a=Own(4, 6), b=nn.Linear(6, 2))
    with refused(gn.Unsupported, "'deeper'", of=model):
        gn.Grower(model, X).grow(gn.Deepen("a"))


class Iterates(nn.Module):
    """Runs whatever children it has: a block of ours would run twice."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        for child in self.children():
            x = child(x)
        return x


def test_code_that_runs_all_its_children_never_runs_a_block_twice():
    alone = Act(lambda m, x: m.only(x), only=Iterates())
    with refused(gn.GrowthError, "'only'", "2 times", of=alone):
        gn.Grower(alone, X).grow(gn.Deepen("only"))
    model, x = nn.Sequential(Iterates(), nn.Linear(4, 2)).double(), X.double()
    before = answers(model, x, True)
    for path in "0.a", "0":
        gn.Grower(model, x).grow(gn.Deepen(path))
        assert change(before, answers(model, x, True)) <= 1e-12


def listed(run):
    layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(3)])
    return Act(run, layers=layers, head=nn.Linear(4, 2)).double()


def by_hand(m, x):
    return m.head(m.layers[2](m.layers[1](m.layers[0](x))))


def sliced(m, x):
    for layer in m.layers[:2]:
        x = layer(x)
    return m.head(m.layers[-1](x))


def through(m, x):
    for layer in m.layers:
        x = layer(x).relu()
    return m.head(x)


def dense(m, x):
    seen = [x]
    for layer in m.layers:
        seen.append(layer(sum(seen)))
    return m.head(seen[-1])


@pytest.mark.parametrize("path", ["layers.0", "layers.1", "layers.2"])
@pytest.mark.parametrize("run", [by_hand, sliced, through, dense])
def test_lists_that_the_code_goes_through_in_its_own_way(run, path):
    """A block is inserted, run behind a hook, or refused; it is never left dead or run twice."""
    model, x = listed(run), X.double()
    before = [answers(model, x, training) for training in (False, True)]
    try:
        gn.Grower(model, x).grow(gn.Deepen(path))
    except gn.GrowthError:
        assert len(model.layers) == 3
        return
    for training in (False, True):
        assert change(before[training], answers(model, x, training)) <= 1e-12
    (block,) = (m for m in model.modules() if type(m) is gn.Residual)
    runs = []
    block.register_forward_hook(lambda *args: runs.append(1))
    model(x).square().sum().backward()
    assert len(runs) == 1 and block.body.conv2.weight.grad.abs().max() > 0


class Named(nn.Sequential):
    """A Sequential with a forward of its own."""

    def forward(self, x):
        return self[2](self[0](x)) + self[1](x).sum()


def test_a_sequential_with_a_forward_of_its_own():
    model, x = nn.Sequential(Named(nn.Linear(4, 4), nn.Linear(4, 1), nn.Linear(4, 4))), X.double()
    model.double()
    before = answers(model, x, True)
    gn.Grower(model, x).grow(gn.Deepen("0.0"))
    assert change(before, answers(model, x, True)) <= 1e-12
    assert isinstance(next(iter(model[0][0]._forward_hooks.values())), RunsDeeper)


@pytest.mark.parametrize("wrap", [lambda y: (y, 3), lambda y: (y, y), lambda y: Pair(y, y * 2)])
def test_modules_that_return_tuples_have_their_first_tensor_deepened(wrap):
    inner = Act(lambda m, x: wrap(m.a(x)), a=nn.Linear(4, 4))
    model = Act(lambda m, x: m.b(m.i(x)[0] + m.i.a.bias), i=inner, b=nn.Linear(4, 2)).double()
    before = answers(model, X.double(), True)
    gn.Grower(model, X.double()).grow(gn.Deepen("i"))
    assert change(before, answers(model, X.double(), True)) <= 1e-12
    assert type(model.i(X.double())) is type(wrap(X))


@pytest.mark.parametrize("wrap", [lambda y: {"y": y}, lambda y: [y], lambda y: ("a", y)])
def test_modules_that_return_something_else_are_refused(wrap):
    inner = Act(lambda m, x: wrap(m.a(x)), a=nn.Linear(4, 4))
    pick = {dict: "y", list: 0, tuple: 1}[type(wrap(0))]
    model = Act(lambda m, x: m.b(m.i(x)[pick]), i=inner, b=nn.Linear(4, 2))
    with refused(gn.Unsupported, "'i'", "not a tensor", of=model):
        gn.Grower(model, X).grow(gn.Deepen("i"))


# --- state of the model ---------------------------------------------------------------------


def test_scripted_parts_and_meta_and_nan():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    nn.init.constant_(model[0].weight, math.nan)
    with refused(gn.Unsupported, "NaN", of=model):
        gn.Grower(model, X).grow(gn.Deepen("0"))


def test_a_live_graph_is_no_obstacle_or_is_refused_and_nothing_breaks():
    model = small()
    grower = gn.Grower(model, X)
    loss = model(X).sum()
    try:
        grower.grow(gn.Deepen("0"))
    except gn.InUse:
        assert len(model) == 3
    loss.backward()
    assert model[0].weight.grad is not None


def test_one_example_with_batch_norm_is_explained():
    model = TOYS["resnet"].model()
    with pytest.raises(gn.GrowthError):
        gn.Grower(model, torch.zeros(1, 2, 1, 1).double()).grow(gn.Deepen("1"))


def test_an_own_plan_is_stale_after_another_growth():
    model, x = TOYS["mlp"].model(), TOYS["mlp"].example()
    grower = gn.Grower(model, x)
    plan = grower.plan(gn.Deepen("0"))
    grower.grow(gn.Deepen("0"))
    with refused(gn.Stale, "plan() again", of=model):
        grower.grow(plan)


def test_a_failed_growth_can_be_tried_again():
    model, x = TOYS["mlp"].model(), TOYS["mlp"].example()
    grower = gn.Grower(model, x)
    before = everything(model)
    for bad in gn.Deepen("0", block=nn.GELU), gn.Deepen("nope"), gn.Deepen("0", block=lambda: 3):
        with pytest.raises(gn.GrowthError):
            grower.grow(bad)
    assert everything(model) == before
    assert grower.grow(gn.Deepen("0")).preserves
