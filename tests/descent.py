"""A small network in training: the optimizers that go along, and steps on data of a seed."""

import torch
from torch import nn

import gnomon as gn

RATE = 0.01
OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, RATE, momentum=0.9),
    "Nesterov": lambda p: torch.optim.SGD(p, RATE, momentum=0.9, nesterov=True, weight_decay=0.1),
    "Adam": lambda p: torch.optim.Adam(p, RATE),
    "AdamW": lambda p: torch.optim.AdamW(p, RATE),
    "AdamW fused": lambda p: torch.optim.AdamW(p, RATE, fused=True),
    "Adam foreach": lambda p: torch.optim.Adam(p, RATE, foreach=True),
    "AMSGrad": lambda p: torch.optim.Adam(p, RATE, amsgrad=True),
    "NAdam": lambda p: torch.optim.NAdam(p, RATE),
    "RMSprop": lambda p: torch.optim.RMSprop(p, RATE, momentum=0.9, centered=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, RATE),
}


def batch(step: int = 0):
    x = torch.randn(16, 3, generator=torch.Generator().manual_seed(100 + step)).double()
    return x, torch.stack([x.sin().sum(1), (x[:, 0] * x[:, 1])], 1)


def learn(model, optimizer, steps, start=0):
    for step in range(start, start + steps):
        x, y = batch(step)
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()


def trained(name, steps=30, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)
        model = nn.Sequential(*layers).double()
    optimizer = OPTIMIZERS[name](model.parameters())
    learn(model, optimizer, steps, seed)
    return model, optimizer


def grow(model, optimizer, rule=None, by=2.0):
    morph = gn.Widen(["0", "2"], by=by, rule=rule or gn.R2R())
    return gn.Grower(model, batch()[0], optimizer).grow(morph).plan
