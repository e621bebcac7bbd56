"""New parameters join the optimizers of their neighbours; old entries feel nothing."""

import pytest
import torch
from torch import nn

import gnomon as gn
from descent import OPTIMIZERS, RATE, batch, learn, trained
from gnomon import growth
from toys import TOYS
from untouched import everything, refused


class Accident(Exception):
    pass


def groups_by_name(model, *optimizers):
    """For each optimizer and group the names of its parameters, in order."""
    names = {id(p): n for n, p in model.named_parameters()}
    return [[names[id(p)] for p in g["params"]] for o in optimizers for g in o.param_groups]


def new_names(model, old):
    known = {id(p) for p in old}
    return [n for n, p in model.named_parameters() if id(p) not in known]


def decayed(model):
    """Weight decay on kernels only, as most recipes have it; with names."""
    kernels = [(n, p) for n, p in model.named_parameters() if p.dim() > 1]
    vectors = [(n, p) for n, p in model.named_parameters() if p.dim() <= 1]
    return torch.optim.AdamW(
        [{"params": kernels, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}], RATE
    )


@pytest.mark.parametrize("rule", [gn.R2R(), gn.Net2Net()], ids=repr)
@pytest.mark.parametrize("toy", ["resnet", "mlp", "attention", "densenet", "prelu"])
def test_kernels_and_vectors_stay_apart_and_names_stay_aligned(toy, rule):
    model, inputs = TOYS[toy].model(), TOYS[toy].example()
    optimizer = decayed(model)
    old = list(model.parameters())
    path = next(n for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d))
    gn.Grower(model, inputs, optimizer).grow(gn.Deepen(path, rule, count=2))
    assert len(new_names(model, old)) >= 6
    for group, held in zip(optimizer.param_groups, groups_by_name(model, optimizer), strict=True):
        assert group["param_names"] == held
        assert {model.get_parameter(n).dim() > 1 for n in held} == {group["weight_decay"] > 0}
    every = [n for held in groups_by_name(model, optimizer) for n in held]
    assert sorted(every) == sorted(n for n, _ in model.named_parameters())
    assert all(p.requires_grad for p in model.parameters())


def test_new_parameters_join_the_nearest_layers_group():
    model, x = TOYS["mlp"].model(), TOYS["mlp"].example()
    optimizer = torch.optim.SGD(
        [{"params": model[i].parameters(), "lr": rate} for i, rate in ((0, 1), (2, 2), (4, 4))]
    )
    for path, rate in ("4", 4), ("2", 2), ("0", 1):
        old = list(model.parameters())
        gn.Grower(model, x, optimizer).grow(gn.Deepen(path))
        (group,) = (g for g in optimizer.param_groups if g["lr"] == rate)
        held = [n for held in groups_by_name(model, optimizer) for n in held]
        assert set(new_names(model, old)) <= set(held)
        assert {id(model.get_parameter(n)) for n in new_names(model, old)} <= {
            id(p) for p in group["params"]
        }


def test_several_optimizers_each_get_their_own():
    model, x = TOYS["mlp"].model(), TOYS["mlp"].example()
    first = torch.optim.Adam(model[:2].parameters())
    second = torch.optim.SGD(model[2:].parameters(), 0.1)
    grower = gn.Grower(model, x, [first, second])
    grower.grow(gn.Deepen("4")), grower.grow(gn.Deepen("0"))
    names = groups_by_name(model, first, second)
    assert [len(n) for n in names] == [6, 8]
    assert all(n.startswith(("0", "1")) for n in names[0])


def test_a_frozen_neighbour_outside_the_optimizer_lends_no_group():
    """The nearest parameter that an optimizer holds does."""
    model, x = TOYS["mlp"].model(), TOYS["mlp"].example()
    model[0].requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    old = list(model.parameters())
    gn.Grower(model, x, optimizer).grow(gn.Deepen("0"))
    held = groups_by_name(model, optimizer)[0]
    assert set(new_names(model, old)) <= set(held) and len(held) == 8
    assert all(model.get_parameter(n).requires_grad for n in held)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_old_entries_step_exactly_as_without_growth(name):
    (model, optimizer), (small, other) = trained(name), trained(name)
    known = dict(model.named_parameters())
    gn.Grower(model, batch()[0], optimizer).grow(gn.Deepen("2", twins=3))
    learn(small, other, 1, start=50), learn(model, optimizer, 1, start=50)
    for n, p in small.named_parameters():
        assert torch.allclose(p, known[n], rtol=0, atol=1e-13), n


@pytest.mark.parametrize("rule", [gn.R2R(), gn.Net2Net()], ids=repr)
@pytest.mark.parametrize("name", ["Adam", "AdamW", "AMSGrad", "Adagrad", "RMSprop"])
def test_first_steps_of_new_parameters_are_no_kicks(name, rule):
    """In the first steps, with a step count of their own."""
    model, optimizer = trained(name)
    old = list(model.parameters())
    gn.Grower(model, batch()[0], optimizer).grow(gn.Deepen("2", rule, block=two_layers(rule)))
    new = new_names(model, old)
    steps = 5 if name == "RMSprop" else 20
    for step in range(steps):
        before = {n: model.get_parameter(n).detach().clone() for n in new}
        learn(model, optimizer, 1, start=60 + step)
        for n in new:
            moved = (model.get_parameter(n).detach() - before[n]).abs().max()
            piled = (1 - 0.9 ** (step + 1)) / 0.1 if name == "RMSprop" else 1  # its momentum
            assert moved <= 1.2 * RATE * piled, (n, step)
            assert step > 1 or moved > 0, n
    assert all(float(s["step"]) in (steps, 30 + steps) for s in optimizer.state.values())


def two_layers(rule):
    if isinstance(rule, gn.R2R):
        return None
    return nn.Sequential(nn.Linear(5, 10), nn.ReLU(), nn.Linear(10, 5))


def test_new_parameters_have_no_state_before_their_first_step():
    model, optimizer = trained("Adam")
    held = {id(p) for p in optimizer.state}
    gn.Grower(model, batch()[0], optimizer).grow(gn.Deepen("2"))
    assert {id(p) for p in optimizer.state} == held
    learn(model, optimizer, 2)
    assert {id(p) for p in optimizer.state} == {id(p) for p in model.parameters()}
    again = OPTIMIZERS["Adam"](model.parameters())
    again.load_state_dict(optimizer.state_dict())


def test_an_empty_optimizer_or_none_is_fine():
    model, x = TOYS["mlp"].model(), TOYS["mlp"].example()
    gn.Grower(model, x).grow(gn.Deepen("0"))
    optimizer = torch.optim.SGD([model[0].weight], 0.1)
    gn.Grower(model, x, optimizer).grow(gn.Deepen("0"))
    assert len(optimizer.param_groups[0]["params"]) == 5


@pytest.mark.parametrize("at", ["check_runs", "calibrate", "answers", "accept"])
def test_undo_restores_every_group_and_name(at, monkeypatch):
    model, inputs = TOYS["resnet"].model(), TOYS["resnet"].example()
    optimizer = decayed(model)
    grower = gn.Grower(model, inputs, optimizer)

    def fails(*args, **kwargs):
        raise gn.NotProved("an accident")

    names = [list(g["param_names"]) for g in optimizer.param_groups]
    held = [[id(p) for p in g["params"]] for g in optimizer.param_groups]
    calls = []
    original = getattr(growth, at, None) or getattr(gn.verify, at)

    def second(*args, **kwargs):
        calls.append(1)
        return fails() if at != "answers" or len(calls) == 2 else original(*args, **kwargs)

    places = {"answers": ["gnomon.growth.answers", "gnomon.proof.verify.answers"]}
    for place in places.get(at, [f"gnomon.growth.{at}"]):
        monkeypatch.setattr(place, second)
    before = everything(model, optimizer)
    with refused(gn.NotProved, of=model, optimizer=optimizer):
        grower.grow(gn.Deepen("1", count=2))
    assert everything(model, optimizer) == before
    assert [list(g["param_names"]) for g in optimizer.param_groups] == names
    assert [[id(p) for p in g["params"]] for g in optimizer.param_groups] == held


def test_one_ended_shortcuts_bring_their_weights_too():
    block = gn.Residual(nn.Sequential(nn.Conv2d(4, 3, 1), nn.ReLU(), nn.Conv2d(3, 4, 1)))
    model = nn.Sequential(nn.Conv2d(2, 4, 1), block, nn.Conv2d(4, 2, 1)).double()
    optimizer = decayed(model)
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    gn.Grower(model, x, optimizer).grow(gn.Widen("0", add=2, until="1"))
    assert "1.shortcut.weight" in optimizer.param_groups[0]["param_names"]
    model(x).sum().backward()
    optimizer.step()
    assert model[1].shortcut.weight[:, 4:].abs().min() > 0
    assert optimizer.state[model[1].shortcut.weight]["exp_avg"].shape == (4, 6, 1, 1)
