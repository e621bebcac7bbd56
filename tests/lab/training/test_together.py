"""Networks trained together end where each ends alone, and what cannot be is refused."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import gnomon as gn
from gnomon.lab.errors import LabError
from gnomon.lab.training.together import Stacked
from gnomon.models import CifarQuick, DigitsNet, ResNetCifar10

STEPS, COUNT = 20, 3

NETWORKS = {
    "digits": (lambda: DigitsNet(2), (1, 8, 8)),
    "resnet": (lambda: ResNetCifar10(1 / 16), (3, 32, 32)),
    "quick": (lambda: CifarQuick((((5, 4),), ((5, 4),), ((5, 6),)), size=16), (3, 16, 16)),
    "mlp": (lambda: mlp(), (6,)),
}
OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=1e-3, amsgrad=True, weight_decay=1e-3),
    "momentum": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, nesterov=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-2),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, momentum=0.5, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2),
}


def mlp(norm=None):
    norm = norm or nn.BatchNorm1d(8)
    return nn.Sequential(nn.Linear(6, 8, bias=False), norm, nn.ReLU(), nn.Linear(8, 10))


def made(build, optimizer=OPTIMIZERS["adamw"], count=COUNT):
    models = []
    for seed in range(count):
        torch.manual_seed(seed)
        models.append(build().double())
    return models, [optimizer(m.parameters()) for m in models]


def batches(shape, steps=STEPS, count=COUNT, seed=0):
    draw = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        x = torch.randn(count, 4, *shape, generator=draw, dtype=torch.float64)
        yield x, torch.randint(0, 10, (count, 4), generator=draw)


def train_alone(model, optimizer, own):
    losses = []
    for x, y in own:
        optimizer.zero_grad()
        loss = cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def each_alone(models, optimizers, shape, **more):
    """Train each network alone; the losses, step by step."""
    both = zip(models, optimizers, strict=True)
    found = [
        train_alone(m, o, [(x[i], y[i]) for x, y in batches(shape, **more)])
        for i, (m, o) in enumerate(both)
    ]
    return torch.tensor(found, dtype=torch.float64).T


def tensors(model, optimizer):
    named = {**dict(model.state_dict())}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            named[f"{name}:{key}"] = torch.as_tensor(value) if value is not None else None
    return named


def assert_same(models, optimizers, others, other_optimizers, within=1e-10):
    for sides in zip(models, optimizers, others, other_optimizers, strict=True):
        ours, theirs = tensors(*sides[:2]), tensors(*sides[2:])
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            if value is None:
                assert theirs[name] is None
                continue
            assert value.shape == theirs[name].shape and value.dtype == theirs[name].dtype, name
            assert (value.double() - theirs[name].double()).abs().max() <= within, name


@pytest.mark.parametrize("network", NETWORKS)
def test_trajectories_are_those_of_each_alone(network):
    build, shape = NETWORKS[network]
    models, optimizers = made(build)
    alone = made(build)
    stacked = Stacked(models, optimizers)
    losses = torch.stack([stacked.step(x, y) for x, y in batches(shape)])
    assert stacked.unstack() == models
    assert (losses - each_alone(*alone, shape)).abs().max() <= 1e-10
    assert_same(models, optimizers, *alone)
    assert not torch.equal(*[m.state_dict()[next(iter(m.state_dict()))] for m in models[:2]])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_acts_as_on_each_alone(optimizer):
    models, optimizers = made(mlp, OPTIMIZERS[optimizer])
    alone = made(mlp, OPTIMIZERS[optimizer])
    stacked = Stacked(models, optimizers)
    for x, y in batches((6,)):
        stacked.step(x, y)
    stacked.unstack()
    each_alone(*alone, (6,))
    assert_same(models, optimizers, *alone)


def test_a_run_goes_on_alone_is_grown_and_goes_on_together():
    """Alone, together, alone, grown twice while new entries still wait, together, alone."""
    models, optimizers = made(lambda: DigitsNet(2))
    alone = made(lambda: DigitsNet(2))
    x = torch.randn(4, 1, 8, 8, dtype=torch.float64)
    for phase, how in enumerate(("alone", "together", "alone", "together", "alone")):
        each_alone(*alone, (1, 8, 8), steps=4, seed=phase)
        if how == "alone":
            each_alone(models, optimizers, (1, 8, 8), steps=4, seed=phase)
        else:
            stacked = Stacked(models, optimizers)
            for images, labels in batches((1, 8, 8), steps=4, seed=phase):
                stacked.step(images, labels)
            stacked.unstack()
        for ours in ((models, optimizers), alone):
            for model, optimizer in zip(*ours, strict=True):
                if phase in (1, 2):
                    gn.Grower(model, x, optimizer).grow(gn.Widen("stage1*", by=2), seed=phase)
        assert_same(models, optimizers, *alone)
    assert models[0].stage1.body.conv1.out_channels == 8


def test_a_rate_set_on_the_stacked_optimizer_reaches_each():
    models, optimizers = made(mlp)
    stacked = Stacked(models, optimizers)
    stacked.optimizer.param_groups[0]["lr"] = 0.5
    stacked.unstack()
    assert [o.param_groups[0]["lr"] for o in optimizers] == [0.5] * COUNT


def test_nothing_reaches_the_networks_before_unstack_and_it_loses_no_bit():
    models, optimizers = made(lambda: DigitsNet(2))
    each_alone(models, optimizers, (1, 8, 8), steps=2)
    before = [copy.deepcopy(tensors(m, o)) for m, o in zip(models, optimizers, strict=True)]
    stacked = Stacked(models, optimizers)
    (x, y), *_ = batches((1, 8, 8))
    stacked.step(x, y)

    def unchanged():
        now = [tensors(m, o) for m, o in zip(models, optimizers, strict=True)]
        return all(torch.equal(t[n], o[n]) for t, o in zip(now, before, strict=True) for n in o)

    assert unchanged()
    Stacked(models, optimizers).unstack()
    assert unchanged()


def test_answers_are_those_of_each_in_eval_mode():
    models, optimizers = made(lambda: DigitsNet(2))
    stacked = Stacked(models, optimizers)
    for images, labels in batches((1, 8, 8), steps=3):
        stacked.step(images, labels)
    x = torch.randn(7, 1, 8, 8, dtype=torch.float64)
    found = stacked.answers(x)
    again = stacked.answers(x)
    each = torch.stack([m.eval()(x) for m in stacked.unstack()])
    assert torch.equal(found, again) and (found - each).abs().max() <= 1e-12


def test_a_cumulative_average_in_batch_norm_counts_for_all():
    models, optimizers = made(lambda: mlp(nn.BatchNorm1d(8, momentum=None)))
    alone = copy.deepcopy(models)
    alone = alone, [OPTIMIZERS["adamw"](m.parameters()) for m in alone]
    stacked = Stacked(models, optimizers)
    for x, y in batches((6,)):
        stacked.step(x, y)
    stacked.unstack()
    each_alone(*alone, (6,))
    assert_same(models, optimizers, *alone)


def test_batch_norm_as_the_first_layer_and_counts_that_differ():
    def build():
        return nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 10))

    models, optimizers = made(build)
    models[1][0].num_batches_tracked += 5
    alone = copy.deepcopy(models)
    alone = alone, [OPTIMIZERS["adamw"](m.parameters()) for m in alone]
    stacked = Stacked(models, optimizers)
    for x, y in batches((6,)):
        stacked.step(x, y)
    stacked.unstack()
    each_alone(*alone, (6,))
    assert [int(m[0].num_batches_tracked) for m in models] == [20, 25, 20]
    assert_same(models, optimizers, *alone)


class Tied(nn.Module):
    """A tied weight, a frozen parameter, one without use, a buffer that is assigned anew."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6)
        self.two.weight = self.one.weight
        self.head = nn.Linear(6, 10).requires_grad_(False)
        self.unused = nn.Linear(2, 2)
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x):
        x = self.two(torch.tanh(self.one(x)))
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return self.head(x - self.mean)


def test_ties_frozen_and_unused_parameters_and_assigned_buffers():
    models, optimizers = made(Tied)
    alone = made(Tied)
    stacked = Stacked(models, optimizers)
    for x, y in batches((6,)):
        stacked.step(x, y)
    stacked.unstack()
    each_alone(*alone, (6,))
    assert models[0].one.weight is models[0].two.weight
    assert_same(models, optimizers, *alone)


def test_dropout_draws_for_each_network_apart():
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(6, 10)).double()
    models = [model, copy.deepcopy(model)]
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in models]
    x, y = next(batches((6,), count=1))
    losses = Stacked(models, optimizers).step(x.expand(2, -1, -1), y.expand(2, -1))
    assert losses[0] != losses[1]


def test_a_loss_may_take_more_than_one_target():
    def weighted(output, target, weight):
        return (cross_entropy(output, target, reduction="none") * weight).sum()

    models, optimizers = made(mlp)
    x, y = next(batches((6,)))
    weight = torch.rand(COUNT, 4, dtype=torch.float64)
    expected = [weighted(m(x[i]), y[i], weight[i]) for i, m in enumerate(copy.deepcopy(models))]
    losses = Stacked(models, optimizers, loss=weighted).step(x, y, weight)
    assert (losses - torch.stack(expected)).abs().max() <= 1e-12


class Branches(nn.Module):
    """Looks at a value: vmap cannot."""

    def __init__(self):
        super().__init__()
        self.norm, self.linear = nn.BatchNorm1d(6), nn.Linear(6, 10)

    def forward(self, x):
        x = self.norm(x)
        return self.linear(x if x.max() > 100 else -x)


def test_an_operation_that_cannot_be_mapped_is_refused_and_nothing_has_changed():
    models, optimizers = made(Branches)
    stacked = Stacked(models, optimizers)
    before = [copy.deepcopy(tensors(m, o)) for m, o in zip(models, optimizers, strict=True)]
    x, y = next(batches((6,)))
    with pytest.raises(LabError, match=r"Branches cannot be trained 3 at once.*one after another"):
        stacked.step(x, y)
    stacked.unstack()
    now = [tensors(m, o) for m, o in zip(models, optimizers, strict=True)]
    assert all(torch.equal(a[n], b[n]) for a, b in zip(now, before, strict=True) for n in b)


def test_an_error_of_the_network_itself_comes_out_as_it_is():
    models, optimizers = made(mlp)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        x = torch.randn(COUNT, 4, 5, dtype=torch.float64)
        Stacked(models, optimizers).step(x, torch.zeros(COUNT, 4, dtype=torch.long))


def other_networks():
    base = mlp()
    wider, evaluated, other_eps = copy.deepcopy(base), copy.deepcopy(base).eval(), mlp()
    wider[0] = nn.Linear(6, 9)
    other_eps[1].eps = 1e-3
    other = copy.deepcopy(base)
    other[2] = nn.Tanh()
    frozen = copy.deepcopy(base)
    frozen[0].weight.requires_grad_(False)
    shared = copy.deepcopy(base)
    return {
        "shapes": ([base, wider], "0.out_features' is 8 in one and 9"),
        "modes": ([base, evaluated], "training"),
        "eps": ([base, other_eps], "1.eps"),
        "classes": ([base, other], "'2' is ReLU in one and Tanh"),
        "frozen": ([base, frozen], "0.weight"),
        "dtypes": ([base, copy.deepcopy(base).double()], "float64"),
        "twice": ([shared, shared], "share parameters"),
        "none": ([], "empty"),
    }


@pytest.mark.parametrize("case", other_networks())
def test_other_architectures_are_refused(case):
    models, message = other_networks()[case]
    with pytest.raises(LabError, match=message):
        Stacked(models, [torch.optim.SGD(m.parameters(), lr=1.0) for m in models])


def other_optimizers(one, two):
    stepped = torch.optim.AdamW(two.parameters())
    train_alone(two, stepped, [(x[0], y[0]) for x, y in batches((6,), steps=1)])
    hooked = torch.optim.AdamW(two.parameters())
    hooked.register_step_post_hook(lambda *_: None)
    halves = [two[:2].parameters(), two[2:].parameters()]
    return {
        "kind": (torch.optim.SGD(two.parameters(), lr=1e-3), "SGD beside AdamW"),
        "rate": (torch.optim.AdamW(two.parameters(), lr=1), "hyperparameters differ"),
        "state": (stepped, "state of '0.weight' differ"),
        "hooks": (hooked, "hooks know one network"),
        "groups": (torch.optim.AdamW([{"params": h} for h in halves]), "differ"),
        "foreign": (torch.optim.AdamW(one.parameters()), "another network"),
        "missing": (None, "2 networks cannot be trained with 1 optimizers"),
    }


@pytest.mark.parametrize("case", other_optimizers(mlp().double(), mlp().double()))
def test_optimizers_in_other_states_are_refused(case):
    one, two = mlp().double(), mlp().double()
    other, message = other_optimizers(one, two)[case]
    optimizers = [torch.optim.AdamW(one.parameters()), *([other] if other else [])]
    with pytest.raises(LabError, match=message):
        Stacked([one, two], optimizers)


@pytest.mark.parametrize("kind", [torch.optim.LBFGS, torch.optim.Adafactor])
def test_optimizers_that_mix_entries_are_refused(kind):
    models, optimizers = made(mlp, kind, count=1)
    with pytest.raises(LabError, match="use one of SGD"):
        Stacked(models, optimizers)
