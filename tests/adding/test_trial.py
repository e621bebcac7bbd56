"""Trials: a new block runs as often as is needed, and what it says is what a run by itself says."""

import copy
from collections import Counter

import pytest
import torch
from torch import nn

import gnomon as gn
from gnomon.adding import neighbour, templates, trial
from gnomon.adding.neighbour import Neighbour
from gnomon.adding.trial import Trial
from gnomon.analysis import flops
from gnomon.blocks import R2RBlock
from gnomon.planning.edit import ModuleEdit
from gnomon.planning.spec import alike, build, describe, unchecked
from gnomon.recording import tape
from own_blocks import Act
from toys import shake
from untouched import everything

IMAGE = (4, 6, 9, 9)


def two(act=nn.GELU):
    return nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), act(), nn.Conv2d(8, 6, 1))


def recurrent():
    return Act(lambda m, x: m.out(m.rnn(x)[0]), rnn=nn.GRU(6, 8), out=nn.Linear(8, 6))


def on_trial(module, shape=IMAGE, start="zero", **options):
    return Trial(module, ModuleEdit("insert", "0", {}, start, shape=shape, **options))


# --- FLOPs ---------------------------------------------------------------------------------

BLOCKS = {
    "convs": (lambda: gn.Residual(two()), IMAGE),
    "several branches": (lambda: gn.Residual(R2RBlock(6, 6, (4, 8))), IMAGE),
    "a layer": (lambda: nn.Linear(6, 6), (4, 6)),
    "recurrent": (lambda: gn.Residual(recurrent()), (5, 4, 6)),
    "a shortcut that computes": (lambda: gn.Residual(two(), nn.Conv2d(6, 6, 3, padding=1)), IMAGE),
    "an activation that computes": (lambda: gn.Residual(two(), None, nn.Conv2d(6, 6, 1)), IMAGE),
    "large inputs": (lambda: gn.Residual(two()), (4, 6, 80, 80)),
    "on meta": (lambda: gn.Residual(two()).to("meta"), IMAGE),
    "recurrent on meta": (lambda: gn.Residual(recurrent()).to("meta"), (5, 4, 6)),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_flops_are_those_of_the_whole_module_by_itself(name):
    make, shape = BLOCKS[name]
    tried = on_trial(make(), shape)
    tried.check_shape()
    assert tried.flops == flops.block_flops(make(), shape) > 0


# --- how often it runs ---------------------------------------------------------------------


@pytest.fixture
def runs(monkeypatch):
    """Counts forward passes of blocks, by what they were for."""
    counted = Counter()

    def counting(*args, **kwargs):
        counted["train" if kwargs["training"] else "eval"] += 1
        return original(*args, **kwargs)

    original = tape.Runs.record
    monkeypatch.setattr(tape.Runs, "record", counting)
    return counted


def in_no_container():
    """Of a model that is not run to see whether a container is run through."""
    layers = {"first": nn.Conv2d(3, 6, 3), "act": nn.ReLU(), "last": nn.Conv2d(6, 2, 1)}
    model = Act(lambda m, x: m.last(m.act(m.first(x))), **layers)
    return gn.Grower(model, torch.randn(2, 3, 8, 8))


def test_a_zero_start_takes_two_passes_before_and_two_after(runs):
    grower = in_no_container()
    runs.clear()
    grower.plan(gn.Deepen("act"))
    assert runs == {"eval": 2, "train": 2}


def test_a_block_that_starts_at_random_runs_once(runs):
    grower = in_no_container()
    runs.clear()
    grower.plan(gn.Deepen("act", gn.RandPad()))
    assert runs == {"eval": 1}


def test_a_block_that_fails_in_train_mode_is_refused_by_the_analysis():
    def run(m, x):
        if m.training:
            raise RuntimeError("only for use")
        return m.body(x)

    block = Act(run, body=two())
    tried = on_trial(gn.Residual(block))
    tried.check_shape()
    before = everything(block)
    with pytest.raises(gn.Unsupported, match=r"in train mode \(RuntimeError: only for use\)"):
        tried.start_at_zero(0)
    assert everything(block) == before


def test_a_start_without_a_trial_before_is_the_same():
    block = gn.Residual(two())
    other = copy.deepcopy(block)
    tried = on_trial(block)
    tried.check_shape()
    tried.start_at_zero(0)
    on_trial(other).start_at_zero(0)
    assert all(map(torch.equal, block.state_dict().values(), other.state_dict().values()))
    assert float(block.body(torch.randn(IMAGE)).detach().abs().max()) < 1e-6


def test_each_branch_of_several_is_made_zero_on_passes_of_its_own():
    block = gn.Residual(R2RBlock(6, 6, (4, 8)))
    shake(block)
    tried = on_trial(block)
    tried.check_shape()
    started = tried.start_at_zero(0)
    assert [part for part, _ in started] == list(block.body.branches)
    assert float(block.body(torch.randn(IMAGE)).detach().abs().max()) < 1e-5


# --- what templates say of themselves -------------------------------------------------------


@pytest.mark.parametrize("name", neighbour._ACTIVATIONS)
@pytest.mark.parametrize("spatial", range(4))
def test_blocks_of_our_own_say_all_without_being_built(name, spatial):
    activation = neighbour._ACTIVATIONS[name]((), {})
    weight = torch.randn(5, 5, *(3,) * spatial, dtype=torch.float64)
    for norm in (False, True):
        like = Neighbour(spatial, 5, (3,) * spatial, weight, norm, activation)
        for made in (templates.residual(like), templates.identity(like, (-1.0, 1.0))):
            spec = unchecked(made)
            assert spec == describe(made) and alike(made, build(spec, {}))


# --- what is proved when -------------------------------------------------------------------


def test_planning_alone_sees_that_a_block_that_was_made_zero_is(monkeypatch):
    def damaged(module, *args, **kwargs):
        start = made(module, *args, **kwargs)
        with torch.no_grad():
            list(module.parameters())[-1].add_(1.0)
        return start

    made = trial.make_zero
    monkeypatch.setattr(trial, "make_zero", damaged)
    grower = in_no_container()
    before = everything(grower.model)
    with pytest.raises(gn.NotProved, match="still computes"):
        grower.plan(gn.Deepen("act"))
    with pytest.raises(gn.NotProved, match="Everything was undone"):
        grower.grow(gn.Deepen("act"))
    with pytest.raises(gn.NotProved, match="still computes"):  # nobody runs the model then
        grower.grow(gn.Deepen("act"), proof="algebra")
    assert everything(grower.model) == before


def test_growing_runs_a_new_block_twice_before_it_stands_in_the_model(runs):
    grower = in_no_container()
    runs.clear()
    grower.grow(gn.Deepen("act"))
    whole = {"analysed": 2, "settled": 2, "proved in double": 4}
    assert sum(runs.values()) == sum(whole.values()) + 2


@pytest.mark.parametrize("proof", ["full", "algebra"])
def test_a_block_behind_a_gate_of_zero_is_seen_where_it_stands(proof, monkeypatch):
    """No output of the model would tell; and what arrives is a thousand times what it was tried on.

    Rounding grows with what arrives, so an undamaged block must pass.
    """
    parts = {"first": nn.Linear(3, 6), "last": nn.Linear(6, 2)}
    model = Act(lambda m, x: m.last(m.first(x * 1000) * m.gate), **parts)
    model.gate = nn.Parameter(torch.zeros(()))
    grower = gn.Grower(model, torch.randn(5, 3))
    grower.grow(gn.Deepen("first"), proof=proof)
    made = trial.make_zero

    def damaged(module, *args, **kwargs):
        start = made(module, *args, **kwargs)
        with torch.no_grad():
            list(module.parameters())[-1].add_(1.0)
        return start

    monkeypatch.setattr(trial, "make_zero", damaged)
    before = everything(model)
    with pytest.raises(gn.NotProved, match=r"behind 'first.*still computes"):
        grower.grow(gn.Deepen("first"), proof=proof)
    assert everything(model) == before
