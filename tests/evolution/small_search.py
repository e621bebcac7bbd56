"""A small problem, small spaces, and what the tests of the search look at."""

import copy
from functools import partial

import torch
from torch import Tensor, nn

from gnomon.evolution import (
    Evolution,
    Joint,
    Member,
    Settings,
    SharedOptimizer,
    Stages,
    from_tensors,
)
from gnomon.evolution.chance import Chance
from gnomon.evolution.population.birth import child, first
from gnomon.evolution.population.mutating import menu_of

IMAGES = Stages(
    inputs=1, size=8, classes=3, outputs=(4, 6), hidden=(2, 4), features=8, dtype=torch.float64
)
SIGNALS = Stages(
    inputs=2, size=4, classes=3, outputs=(4,), hidden=(4,), features=6, dims=1,
    form="concatenated", dtype=torch.float64,
)  # fmt: skip
VECTORS = Stages(
    inputs=5, classes=3, outputs=(6, 6), hidden=(4, 4), features=6, dims=0, kernel=1,
    kernels=((1, 1.0),), dtype=torch.float64,
)  # fmt: skip
SPACES = {"images": IMAGES, "signals": SIGNALS, "vectors": VECTORS}

ADAM = partial(torch.optim.Adam, lr=1e-2, weight_decay=1e-3)
SHORT = Settings(first_steps=6, steps=6, keep=2, size=4, rounds=3)


def data(space, count=60, seed=0):
    """Inputs, and which third of its values the mean of each belongs to."""
    draw = torch.Generator().manual_seed(seed)
    shape = space.calls[0][0][0].shape[1:]
    x = torch.randn(count, *shape, generator=draw, dtype=torch.float64)
    return x, (x.flatten(1).mean(1).argsort().argsort() * 3 // count)


def problem(space=IMAGES, batch=8, recalibration=2):
    x, y = data(space)
    return from_tensors(
        (x[:40], y[:40]), (x[40:], y[40:]), batch=batch, recalibration=recalibration
    )


def evolution(space=IMAGES, settings=SHORT, optimizer=ADAM, **rest) -> Evolution:
    return Evolution(space, optimizer, settings=settings, **rest)


def descend(space, parent: Member, *key: object, number=1, seed=0) -> Member:
    """A random child."""
    kind, place = (menu := menu_of(space, parent)).draw(Chance(*key))
    mutation = menu.kinds[kind][place][0]
    return child(space, parent, mutation, id=number, born=1, seed=seed)


def family(space=IMAGES, count=4, seed=0) -> list[Member]:
    """The base and a chain of descendants."""
    members = [first(space, seed=seed)]
    for number in range(1, count):
        members.append(descend(space, members[-1], seed, number, number=number, seed=seed))
    return members


def trained(space, members, steps=5, make=ADAM) -> SharedOptimizer:
    """Train them together, so that nothing is left at its initial value."""
    optimizer = SharedOptimizer(make)
    for member in members:
        optimizer.adopt(member)
    Joint(problem(space), optimizer, steps).train(members, "trained")
    return optimizer


def outputs(network: nn.Module, inputs: Tensor, training: bool) -> Tensor:
    """Of a copy, so that no statistics move."""
    return copy.deepcopy(network).train(training)(inputs).detach()


def change(a: nn.Module, b: nn.Module, inputs: Tensor) -> float:
    """Largest difference in both modes, relative to the largest output."""
    found = []
    for training in (False, True):
        old, new = outputs(a, inputs, training), outputs(b, inputs, training)
        found.append(float((old - new).abs().max() / old.abs().max()))
    return max(found)


def new_in(parent: Member, member: Member) -> dict[str, nn.Parameter]:
    """What a child has that its parent has not, its head aside."""
    keys = member.parameters.keys() - parent.parameters.keys()
    own = {member.keys[name] for name in member.own}
    return {key: member.parameters[key] for key in keys - own}


def moved_within(network: nn.Module, parameters, problem, steps=2) -> set[str]:
    """Which of these get a gradient that is not zero within some steps of plain descent."""
    twin = copy.deepcopy(network).train()
    names = {id(p): n for n, p in network.named_parameters()}
    wanted = {key: dict(twin.named_parameters())[names[id(p)]] for key, p in parameters.items()}
    optimizer, draw, moved = torch.optim.SGD(twin.parameters(), 1e-3), Chance("alive"), set()
    for _ in range(steps):
        x, y = problem.batch(draw.generator)
        optimizer.zero_grad()
        problem.loss(twin(x), y).backward()
        moved |= {key for key, p in wanted.items() if p.grad is not None and bool(p.grad.any())}
        optimizer.step()
    return moved


def everything(evolution: Evolution) -> dict[str, Tensor]:
    """All tensors that a search consists of."""
    return evolution.state_dict()["tensors"]


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
