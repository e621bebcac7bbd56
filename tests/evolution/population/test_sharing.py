"""Members hold the same parameters; statistics and heads are their own."""

import copy
import gc
import itertools
import weakref

import pytest
import torch
from small_search import ADAM, IMAGES, VECTORS, data, evolution, family, problem, trained
from torch import nn

from gnomon.errors import BadCheckpoint, Unsupported
from gnomon.evolution import Joint, SharedOptimizer
from gnomon.evolution.chance import Chance
from gnomon.evolution.population.member import distinct, size_of
from gnomon.evolution.population.sharing import names_under, owner, shared_copy
from gnomon.recording.tape import calls_of


def test_a_child_holds_its_parents_parameters_themselves():
    members = family(count=4)
    for parent, member in itertools.pairwise(members):
        own = {parent.keys[name] for name in parent.own}
        for key in parent.parameters.keys() - own:
            assert member.parameters[key] is parent.parameters[key]
        assert not own & member.parameters.keys()


def test_the_head_is_a_copy_and_so_are_the_statistics():
    base, member = family(count=2)
    assert base.own == member.own == {"head.weight", "head.bias"}
    for name in base.own:
        a, b = base.network.get_parameter(name), member.network.get_parameter(name)
        assert a is not b and torch.equal(a, b)
    theirs = {b.data_ptr() for b in base.network.buffers()}
    assert not theirs & {b.data_ptr() for b in member.network.buffers()}


def test_each_parameter_has_one_state_with_a_step_count_of_its_own():
    members = family(count=3)
    optimizer = SharedOptimizer(ADAM)
    training = Joint(problem(), optimizer, 0)
    batch = problem().batch(torch.Generator().manual_seed(0))
    for number, member in enumerate(members, 1):
        for _ in range(number):
            training.step(member, batch)
    steps = {key: int(optimizer.state[p]["step"]) for key, p in distinct(members).items()}
    assert steps["0.trunk.0.body.branches.0.conv1.weight"] == 1 + 2 + 3
    assert steps["0.head.weight"] == 1 and steps["1.head.weight"] == 2
    assert {n for key, n in steps.items() if key.startswith("1.") and "head" not in key} == {2 + 3}
    assert len(optimizer.state) == len(distinct(members))


MAKERS = {
    "adam": ADAM,
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.1),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, momentum=0.9, weight_decay=0.1),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2, weight_decay=0.1),
}


@pytest.mark.parametrize("name", MAKERS)
def test_what_no_step_uses_stays_bit_for_bit(name):
    """Neither momentum nor decay moves it, in 1,000 steps on other members."""
    base, *others = family(VECTORS, count=4)
    members = [base, *others]
    optimizer = trained(VECTORS, members, steps=40, make=MAKERS[name])
    unused = distinct(others).keys() - base.parameters.keys()
    before = {key: distinct(members)[key].detach().clone() for key in unused}
    state = {
        key: {n: torch.as_tensor(v).clone() for n, v in s.items()}
        for key, s in optimizer.tensors({k: distinct(members)[k] for k in unused}).items()
    }
    statistics = [b.clone() for m in others for b in m.network.buffers()]
    Joint(problem(VECTORS, batch=2), optimizer, 1000).train([base], "others")
    for key in unused:
        assert torch.equal(distinct(members)[key], before[key])
        for n, value in state[key].items():
            assert torch.equal(torch.as_tensor(optimizer.state[distinct(members)[key]][n]), value)
    now = [b for m in others for b in m.network.buffers()]
    assert all(torch.equal(a, b) for a, b in zip(statistics, now, strict=True))


def test_a_gradient_that_another_member_left_moves_nothing():
    base, member = family(count=2)
    optimizer = trained(IMAGES, [base, member])
    x, y = problem().batch(torch.Generator().manual_seed(0))
    problem().loss(member.network(x), y).backward()
    new = member.parameters.keys() - base.parameters.keys()
    before = {key: member.parameters[key].detach().clone() for key in new}
    Joint(problem(), optimizer, 1).train([base], "one")
    assert all(torch.equal(member.parameters[key], before[key]) for key in new)


def test_stepping_a_member_steps_what_the_others_hold():
    base, member = family(count=2)
    x = data(IMAGES, 5)[0]
    before = base.network.eval()(x).detach()
    trained(IMAGES, [member], steps=3)
    assert not torch.equal(base.network.eval()(x), before)


def test_rate_and_decay_are_divided_by_growth_along_the_lineage():
    members = family(count=4)
    for member in members:
        ratio = members[0].size.parameters / member.size.parameters
        assert member.factor == pytest.approx(ratio)
    seen = []

    class Watched(torch.optim.SGD):
        def step(self, closure=None):
            seen.append((self.param_groups[0]["lr"], self.param_groups[0]["weight_decay"]))
            return super().step(closure)

    optimizer = SharedOptimizer(lambda p: Watched(p, lr=0.5, weight_decay=0.25))
    seen.clear()
    training = Joint(problem(), optimizer, 0)
    training.step(members[2], problem().batch(torch.Generator().manual_seed(0)))
    assert seen == [(0.5 * members[2].factor, 0.25 * members[2].factor)]


def test_a_shared_step_is_the_step_that_a_network_alone_would_make():
    [member] = family(count=1)
    alone = copy.deepcopy(member.network)
    own, draw = ADAM(alone.parameters()), Chance("trained", "batches").generator
    trained(IMAGES, [member], steps=6)
    for _ in range(6):
        x, y = problem().batch(draw)
        own.zero_grad()
        problem().loss(alone.train()(x), y).backward()
        own.step()
    for a, b in zip(alone.state_dict().values(), member.network.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_parameters_that_no_member_uses_are_freed():
    search = evolution()
    search.ask()
    rows = torch.zeros(4)
    search.tell({0: rows})
    members = search.ask()
    trained_by = Joint(problem(), search.optimizer, 20)
    trained_by.train(members, "free")
    search.tell({m.id: torch.full((4,), float(m.id == 0)) for m in members})
    held = {key: weakref.ref(p) for key, p in distinct(search.members).items()}
    del members
    search.ask()
    gc.collect()
    living = distinct(search.members)
    dead = [key for key in held if key not in living]
    assert dead and all(held[key]() is None for key in dead)
    states = {id(p) for p in search.optimizer.state}
    assert states <= {id(p) for p in living.values()}


def test_the_owner_of_a_parameter_is_the_module_that_has_it():
    assert owner("head.weight") == "head"
    assert owner("a.head.parametrizations.weight.original") == "a.head"
    assert owner("parametrizations.weight.0.block0") == owner("weight") == ""


def test_a_head_without_parameters_is_refused():
    with pytest.raises(Unsupported, match="'1' holds no parameters"):
        names_under(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), "1")


def test_tied_and_flat_parameters_are_shared_wherever_they_are_held():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.a, self.b = nn.LSTM(3, 4), nn.Linear(4, 4), nn.Linear(4, 4)
            self.b.weight = self.a.weight

    network = Tied()
    twin = shared_copy(network, own=["a.bias"])
    assert twin.b.weight is twin.a.weight is network.a.weight
    assert twin.lstm._flat_weights[0] is network.lstm.weight_ih_l0
    assert twin.a.bias is not network.a.bias and torch.equal(twin.a.bias, network.a.bias)


def test_a_module_that_copies_itself_as_itself_is_refused():
    class Stubborn(nn.Linear):
        def __deepcopy__(self, memo):
            return self

    with pytest.raises(Unsupported, match="way of its own"):
        shared_copy(nn.Sequential(Stubborn(2, 2)), own=["0.bias"])


def test_optimizers_that_cannot_be_shared_are_refused():
    for make, why in [
        (lambda p: torch.optim.LBFGS(p), "closure"),
        (lambda p: torch.optim.SGD([{"params": list(p)}, {"params": [nn.Parameter(torch.ones(1))]}],
                                   lr=1.0), "one group"),
    ]:  # fmt: skip
        with pytest.raises(Unsupported, match=why):
            SharedOptimizer(make)


def test_a_state_of_unknown_parameters_is_refused():
    optimizer = SharedOptimizer(ADAM)
    with pytest.raises(BadCheckpoint, match="nobody uses"):
        optimizer.load({"7.weight": {}}, {})


def test_the_state_of_an_optimizer_that_starts_with_one_is_there():
    [member] = family(count=1)
    optimizer = SharedOptimizer(lambda p: torch.optim.Adagrad(p, initial_accumulator_value=2.0))
    optimizer.adopt(member)
    assert all(float(optimizer.state[p]["sum"].mean()) == 2 for p in member.parameters.values())


def test_the_flops_of_a_network_count_its_attention():
    """Two products of 5 x 8 x 5 for each example, beside layers of 8 x 24 and 8 x 8."""

    class Attentive(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

        def forward(self, x):
            q, k, v = self.qkv(x).chunk(3, -1)
            mixed = nn.functional.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])
            return self.out(mixed[:, 0])

    found = size_of(Attentive(), calls_of(torch.randn(4, 5, 8)))
    assert found.flops == 2 * (5 * 8 * 24 + 2 * 5 * 5 * 8 + 5 * 8 * 8)
