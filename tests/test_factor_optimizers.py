"""Factor under an optimizer: groups, names, decay, schedulers, first steps, and accidents."""

import copy
import logging

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

import gnomon as gn
from descent import RATE, batch, learn, trained
from gnomon import growth
from gnomon.adding import additions
from gnomon.editing import insertion, param_groups
from untouched import everything

GATE = gn.Factor("2", mid=8, activation=nn.Sigmoid())
FORMS = {
    "gate": GATE,
    "pairs": gn.Factor("2", mid=12, activation=nn.ReLU()),
    "norm": gn.Factor("2", mid=8, activation=nn.Tanh(), norm=True),
    "chain": gn.Factor("2", mid=(8, 7), activation=nn.Sigmoid()),
}


def decayed(model, cls=torch.optim.AdamW):
    """Weight decay on kernels only, each layer at its own rate, with names."""
    groups = []
    for path in ("0", "2", "4"):
        named = list(model.get_submodule(path).named_parameters(path))
        rate = RATE * (1 + int(path))
        groups += [
            {"params": [(n, p) for n, p in named if p.dim() > 1], "lr": rate, "weight_decay": 0.1},
            {"params": [(n, p) for n, p in named if p.dim() <= 1], "lr": rate, "weight_decay": 0.0},
        ]
    return cls(groups, lr=RATE)


def network():
    torch.manual_seed(0)
    layers = nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)
    return nn.Sequential(*layers).double()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cls", [torch.optim.AdamW, torch.optim.SGD, torch.optim.RMSprop])
def test_new_parameters_stand_where_the_layers_did_kernels_apart_from_vectors(cls, form):
    model = network()
    optimizer = decayed(model, cls)
    learn(model, optimizer, 3)
    old = [model[2].weight, model[2].bias]
    gn.Grower(model, batch()[0], optimizer).grow(FORMS[form])
    by_id = {id(p): n for n, p in model.named_parameters()}
    for group in optimizer.param_groups:
        names = [by_id[id(p)] for p in group["params"]]  # KeyError: an old one stayed
        assert group["param_names"] == names
        places = {n.partition(".")[0] for n in names}
        assert all(group["lr"] == RATE * (1 + int(path)) for path in places)
        for name in names:
            kernel = model.get_parameter(name).dim() > 1
            assert group["weight_decay"] == (0.1 if kernel else 0.0), name
    held = [n for group in optimizer.param_groups for n in group["param_names"]]
    assert sorted(held) == sorted(by_id.values())
    assert not any(p in optimizer.state for p in old)
    assert set(map(id, optimizer.state)) <= set(by_id)
    copied = copy.deepcopy(optimizer.state_dict())
    learn(model, optimizer, 2)
    optimizer.load_state_dict(copied)


@pytest.mark.parametrize("clue", [{"foreach": False}, {"fused": True}, {"maximize": True}])
def test_one_group_of_everything_gets_a_second_one_for_the_gates(clue):
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.1, **clue)
    gn.Grower(model, batch()[0], optimizer).grow(GATE)
    first, second = optimizer.param_groups
    assert [id(p) for p in second["params"]] == [id(model[2].activation.a)]
    differs = {k for k in first if first[k] != second[k]} - {"params"}
    assert differs == {"weight_decay"} and second["weight_decay"] == 0
    gn.Grower(model, batch()[0], optimizer).grow(gn.Factor("4", mid=5, activation=nn.Tanh()))
    assert [len(g["params"]) for g in optimizer.param_groups] == [10 - 2 + 2, 2]
    learn(model, optimizer, 2)


SCHEDULERS = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 0.5**epoch),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 10),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 1, 0.5),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, RATE, total_steps=20),
}


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("before", [True, False], ids=["made before", "made after"])
def test_schedulers_go_on(name, before, caplog):
    model, twin = network(), network()
    optimizers = [torch.optim.AdamW(m.parameters(), RATE, weight_decay=0.1) for m in (model, twin)]
    schedulers = [SCHEDULERS[name](o) for o in optimizers] if before else []
    for m, o in zip((model, twin), optimizers, strict=True):
        learn(m, o, 1)
    for s in schedulers:
        s.step()
    with caplog.at_level(logging.WARNING, "gnomon"):
        gn.Grower(model, batch()[0], optimizers[0]).grow(GATE)
    assert (
        "scheduler" in caplog.text
    ) == before  # the gate then stays with the others, and we say so
    schedulers = schedulers or [SCHEDULERS[name](o) for o in optimizers]
    for _ in range(4):
        for m, o, s in zip((model, twin), optimizers, schedulers, strict=True):
            learn(m, o, 1)
            s.step()
        rates = {g["lr"] for g in optimizers[0].param_groups}
        assert rates == {g["lr"] for g in optimizers[1].param_groups}
    assert len(optimizers[0].param_groups) == (1 if before else 2)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "name",
    ["Adam", "AdamW", "AMSGrad", "Adagrad", "RMSprop"],
)
def test_first_steps_are_no_kicks(name, form):
    model, optimizer = trained(name)
    gn.Grower(model, batch()[0], optimizer).grow(FORMS[form])
    new = dict(model[2].named_parameters())
    slack = {"AdamW": 0.01}.get(name, 0)
    for step in range(5 if name == "RMSprop" else 8):
        before = {n: p.detach().clone() for n, p in new.items()}
        learn(model, optimizer, 1, start=60 + step)
        for n, p in new.items():
            piled = (1 - 0.9 ** (step + 1)) / 0.1 if name == "RMSprop" else 1  # its momentum
            assert (p.detach() - before[n]).abs().max() <= (1.2 + slack) * RATE * piled, (n, step)


def test_several_optimizers_keep_their_own():
    model = network()
    one, two = (
        torch.optim.Adam(model[:2].parameters()),
        torch.optim.SGD(model[2:].parameters(), 0.1),
    )
    gn.Grower(model, batch()[0], [one, two]).grow(GATE)
    assert len(one.param_groups[0]["params"]) == 2
    held = {id(p) for p in two.param_groups[0]["params"]}
    assert held == {id(p) for p in model[2:].parameters()}


class Accident(Exception):
    pass


def in_any_order(found):
    """The optimizer's state may hold the same parameters in another order."""
    return {k: sorted(v) if k.endswith("holds") else v for k, v in found.items()}


STAGES = {
    "solving": (additions.DERIVED, "factored"),
    "putting": (insertion, "replace"),
    "joining": (param_groups, "take_place"),
    "leaving": (param_groups, "_leave"),
    "entering": (param_groups, "_add"),
    "grouping": (param_groups, "_without_decay"),
    "naming": (param_groups, "rename"),
    "checking": (None, "check_runs"),
    "calibrating": (None, "calibrate"),
    "proving": (None, "accept"),
}


RETURN_UNDO = ("putting", "leaving", "entering", "grouping")

# What a step has done when it breaks it must undo itself, except those that return their undo.
LATE = [(s, late) for s in STAGES for late in (False, True) if not late or s not in RETURN_UNDO]


@pytest.mark.parametrize(("stage", "late"), LATE)
@pytest.mark.parametrize("name", ["AdamW", "RMSprop"])
def test_an_accident_at_any_stage_leaves_everything_bit_for_bit(name, stage, late, monkeypatch):
    model, _ = trained(name)
    optimizer = decayed(model, {"AdamW": torch.optim.AdamW, "RMSprop": torch.optim.RMSprop}[name])
    learn(model, optimizer, 2)
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.1  # so that the gate needs a group of its own
    grower = gn.Grower(model, batch()[0], optimizer)
    plan = grower.plan(FORMS["norm"])
    owner, attribute = STAGES[stage]
    owner = growth if owner is None else owner
    mapping = isinstance(owner, dict)
    real = owner[attribute] if mapping else getattr(owner, attribute)
    calls = []

    def accident(*args, **kwargs):
        calls.append(1)
        if late:
            result = real(*args, **kwargs)
            if stage in ("joining", "naming"):
                return breaking(result)
        raise Accident

    def breaking(undos):
        yield from undos
        raise Accident

    if mapping:
        monkeypatch.setitem(owner, attribute, accident)
    elif stage == "putting":
        monkeypatch.setitem(additions._WAYS, "replace", accident)
    else:
        monkeypatch.setattr(owner, attribute, accident)
    before = in_any_order(everything(model, optimizer))
    with pytest.raises(Accident):
        grower.grow(plan)
    assert calls and in_any_order(everything(model, optimizer)) == before
    monkeypatch.undo()
    assert grower.grow(plan).preserves
    learn(model, optimizer, 2)


def test_a_live_graph_is_refused():
    model = network()
    loss = model(batch()[0]).sum()
    with pytest.raises(gn.InUse, match="drop the loss"):
        gn.Grower(model, batch()[0]).grow(GATE)
    del loss
    gn.Grower(model, batch()[0]).grow(GATE)
