"""Optimizers with weight decay of either kind, a network in training, and twins to compare with."""

import copy

import torch
from torch import nn

import gnomon as gn
from descent import batch
from gnomon.editing.first_gradients import FirstGradients

RATE, DECAY = 0.01, 0.3
ALL = {
    "AdamW": lambda p: torch.optim.AdamW(p, RATE, weight_decay=DECAY),
    "AdamW fused": lambda p: torch.optim.AdamW(p, RATE, weight_decay=DECAY, fused=True),
    "AdamW foreach": lambda p: torch.optim.AdamW(p, RATE, weight_decay=DECAY, foreach=True),
    "Adam": lambda p: torch.optim.Adam(p, RATE, weight_decay=DECAY),
    "Adam fused": lambda p: torch.optim.Adam(p, RATE, weight_decay=DECAY, fused=True),
    "Adam maximize": lambda p: torch.optim.Adam(p, RATE, weight_decay=DECAY, maximize=True),
    "AMSGrad": lambda p: torch.optim.AdamW(p, RATE, weight_decay=DECAY, amsgrad=True),
    "SGD": lambda p: torch.optim.SGD(p, RATE, momentum=0.9, weight_decay=DECAY),
    "SGD fused": lambda p: torch.optim.SGD(p, RATE, 0.9, weight_decay=DECAY, fused=True),
    "SGD foreach": lambda p: torch.optim.SGD(
        p, RATE, 0.9, weight_decay=DECAY, nesterov=True, foreach=True
    ),
    "RMSprop": lambda p: torch.optim.RMSprop(p, RATE, momentum=0.9, weight_decay=DECAY),
    "Adagrad": lambda p: torch.optim.Adagrad(p, RATE, weight_decay=DECAY),
    "Adagrad fused": lambda p: torch.optim.Adagrad(p, RATE, weight_decay=DECAY, fused=True),
    "Adadelta": lambda p: torch.optim.Adadelta(p, RATE, weight_decay=DECAY),
    "Adamax": lambda p: torch.optim.Adamax(p, RATE, weight_decay=DECAY),
    "NAdam": lambda p: torch.optim.NAdam(p, RATE, weight_decay=DECAY),
    "NAdam decoupled": lambda p: torch.optim.NAdam(
        p, RATE, weight_decay=DECAY, decoupled_weight_decay=True
    ),
    "RAdam": lambda p: torch.optim.RAdam(p, RATE, weight_decay=DECAY),
    "tensor rate": lambda p: torch.optim.AdamW(
        p, torch.tensor(RATE, dtype=torch.float64), weight_decay=DECAY, foreach=False
    ),
}
WIDER, DEEPER = gn.Widen(["0", "2"], by=2.0), gn.Deepen("2")


def network(name="AdamW", steps=5, dtype=torch.float64):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)
        model = nn.Sequential(*layers).to(dtype)
    optimizer = ALL[name](model.parameters())
    learn(model, optimizer, steps)
    return model, optimizer


def gradients(model, optimizer, step):
    x, y = (t.to(model[0].weight.dtype) for t in batch(step))
    optimizer.zero_grad()
    (model(x) - y).square().mean().backward()


def learn(model, optimizer, steps, start=0):
    for step in range(start, start + steps):
        gradients(model, optimizer, step)
        optimizer.step()


def grown(model, optimizer, after, *morphs):
    """The receipts of growths that are adjusted to; new moments do not follow first gradients."""
    grower = gn.Grower(model, batch()[0].to(model[0].weight.dtype), optimizer)
    receipts = []
    for seed, morph in enumerate(morphs or (WIDER,)):
        receipts.append(grower.grow(morph, seed=seed))
        gn.adjust(grower, receipts[-1], after)
        plain(optimizer)
    return receipts


def plain(optimizer):
    """Moments as the optimizer alone makes them, so that a twin without hooks can be compared."""
    hook = FirstGradients.on(optimizer)
    if hook is not None:
        hook._waiting.clear()
        hook._stateless.clear()


def twin(model, optimizer, **options):
    """A copy of both, without hooks, with other options: what plain PyTorch does with them."""
    other, own = copy.deepcopy((model, optimizer))
    for group in own.param_groups:
        group.update(options)
    return other, own


def assert_equal(model, other, tolerance=1e-15):
    for (name, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-12, atol=tolerance), name
