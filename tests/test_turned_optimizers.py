"""The state of optimizers, when a stream is turned."""

import copy

import pytest
import torch

import gnomon as gn
from descent import OPTIMIZERS, RATE
from test_turned_streams import X, language

MORE = {
    "Adadelta": lambda p: torch.optim.Adadelta(p, 1.0),
    "Adamax": lambda p: torch.optim.Adamax(p, RATE),
    "RMSprop plain": lambda p: torch.optim.RMSprop(p, RATE),
}
every_optimizer = pytest.mark.parametrize("name", [*OPTIMIZERS, *MORE])
SQUARES = ("exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum", "acc_delta", "exp_inf")


def learn(model, optimizer, steps, start=0):
    """Steps on words of their own, towards the next word."""
    for step in range(start, start + steps):
        words = torch.randint(0, 9, (6, 4), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        scores = model(words)
        torch.nn.functional.cross_entropy(scores.flatten(0, 1), words.flatten()).backward()
        optimizer.step()


def trained(name, norm="LayerNorm", steps=20):
    model = language(norm, depth=1).eval()
    optimizer = {**OPTIMIZERS, **MORE}[name](model.parameters())
    learn(model, optimizer, steps)
    return model, optimizer


def turn(model, optimizer, **amount):
    morph = gn.Widen("words", rule=gn.Isometry(), **(amount or {"by": 1.5}))
    return gn.Grower(model, X, optimizer).grow(morph).plan


def moves(model, optimizer, start):
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    learn(model, optimizer, 1, start)
    return {name: (p.detach() - before[name]).abs() for name, p in model.named_parameters()}


@every_optimizer
def test_state_is_turned_stays_positive_and_nothing_is_kicked(name):
    model, optimizer = trained(name)
    small = copy.deepcopy(model)
    other = {**OPTIMIZERS, **MORE}[name](small.parameters())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    turn(model, optimizer)
    for p in model.parameters():
        for key, value in optimizer.state[p].items():
            if value.dim():
                assert value.shape == p.shape and bool(value.isfinite().all()), key
                assert key not in SQUARES or bool((value >= 0).all()), key
    ours, theirs = [], []
    for step in range(12):
        ours += [float(m.max()) for m in moves(model, optimizer, 100 + step).values()]
        theirs += [float(m.max()) for m in moves(small, other, 100 + step).values()]
    assert all(p.isfinite().all() for p in model.parameters())
    # a centred RMSprop makes steps of 25 rates in the small model too; turned, several add up
    assert max(ours) <= max(1.2 * RATE, (3 if name == "RMSprop" else 1.5) * max(theirs))


def test_momentum_is_turned_like_the_gradient():
    model, sgd = trained("SGD", "RMSNorm")
    old = {n: sgd.state[p]["momentum_buffer"].clone() for n, p in model.named_parameters()}
    gain = model.norm.weight.detach().clone()
    t = turn(model, sgd).embeddings["words"].matrix
    now = {n: sgd.state[p]["momentum_buffer"] for n, p in model.named_parameters()}
    assert torch.allclose(now["words.weight"], old["words.weight"] @ t.T * (6 / 9))
    assert torch.allclose(now["head.weight"], (old["head.weight"] / gain) @ t.T)
    assert not bool(now["norm.weight"].any()) and torch.equal(
        now["blocks.0.q.bias"], old["blocks.0.q.bias"]
    )


def test_the_momentum_of_rmsprop_is_a_step_and_stays_the_same_step():
    """After it, the turned model computes what the small one computes after its own."""
    model, rmsprop = trained("RMSprop", "RMSNorm")
    old = {n: rmsprop.state[p]["momentum_buffer"].clone() for n, p in model.named_parameters()}
    gain = model.norm.weight.detach().clone()
    t = turn(model, rmsprop).embeddings["words"].matrix
    now = {n: rmsprop.state[p]["momentum_buffer"] for n, p in model.named_parameters()}
    assert torch.allclose(now["words.weight"] @ t * (6 / 9), old["words.weight"])
    assert torch.allclose(now["head.weight"] @ t, old["head.weight"] * gain)


def test_second_moments_are_mixed_by_squares():
    model, adam = trained("Adam", "RMSNorm")
    old = {n: adam.state[p]["exp_avg_sq"].clone() for n, p in model.named_parameters()}
    gain = model.norm.weight.detach().clone()
    t = turn(model, adam).embeddings["words"].matrix
    now = {n: adam.state[p]["exp_avg_sq"] for n, p in model.named_parameters()}
    wanted = (old["head.weight"] / gain**2) @ (t**2).T
    assert bool((now["head.weight"] >= wanted * (1 - 1e-12)).all())
    assert float((now["head.weight"] / wanted).median()) < 1.5  # some are raised, to bound steps
    mean = old["words.weight"].mean(1, keepdim=True)
    wanted = old["words.weight"] @ (t**2).T * (6 / 9) ** 2 + (1 - 6 / 9) * mean
    assert bool((now["words.weight"] >= wanted * (1 - 1e-12)).all())
    assert torch.allclose(now["norm.weight"], old["norm.weight"].mean())


def test_training_goes_on_as_well_as_before():
    """The loss of the turned model after some steps is no worse than that of the small one."""
    model, adam = trained("Adam", steps=60)
    small = copy.deepcopy(model)
    other = OPTIMIZERS["Adam"](small.parameters())
    other.load_state_dict(copy.deepcopy(adam.state_dict()))
    turn(model, adam, by=2)
    learn(model, adam, 60, 1000)
    learn(small, other, 60, 1000)
    words = torch.randint(0, 9, (64, 4), generator=torch.Generator().manual_seed(5))
    losses = [
        torch.nn.functional.cross_entropy(m(words).flatten(0, 1), words.flatten()).item()
        for m in (model, small)
    ]
    assert losses[0] <= losses[1] * 1.1


def test_adjustments_go_along():
    """Nothing of a turned tensor counts as new by itself."""
    model, adam = trained("Adam")
    schedule = gn.At(gn.Widen("words", by=1.5, rule=gn.Isometry()), step=1)
    grower = gn.Grower(model, X, adam)
    timeline = gn.Timeline(schedule, after=(gn.NewWeights(rate=0.5), gn.BySize()))
    timeline.advance(grower, step=1)
    assert model.words.weight.shape == (9, 9)
    learn(model, adam, 3)


def test_gradients_in_waiting_survive_two_turns_and_an_undo():
    model, adam = trained("Adam")
    turn(model, adam)
    learn(model, adam, 2, 50)
    turn(model, adam, add=1)
    learn(model, adam, 2, 60)
    with torch.no_grad():
        model.norm.weight[0] = 0
    with pytest.raises(gn.CannotPreserve, match="is 0 for 1 channels"):
        turn(model, adam)
    learn(model, adam, 2, 70)
