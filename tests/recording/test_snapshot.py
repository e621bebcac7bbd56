"""Snapshots: whatever a forward pass does to what hangs on a model, it is taken back."""

import copy
import random
from collections import OrderedDict, deque

import numpy
import pytest
import torch
from torch import nn

from gnomon.recording.snapshot import taking_back, unchanged
from gnomon.recording.tape import record, record_each, runs_of
from untouched import everything


class Holder(nn.Module):
    """Tensors, containers and objects of every kind that is looked into."""

    def __init__(self):
        super().__init__()
        self.inner, self.norm = nn.Linear(3, 3), nn.BatchNorm1d(3)
        self.register_buffer("numbers", torch.tensor([1.0, float("nan"), -2.0]))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("seen", torch.zeros(2, 3, dtype=torch.bool))
        self.register_buffer("wide", torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last))
        self.register_buffer("spread", torch.tensor([float("nan")]).expand(4))
        self.register_buffer("short", torch.randn(3, dtype=torch.float16))
        self.register_buffer("none", None)
        self.loose, self.array = torch.randn(4).double(), numpy.arange(3.0)
        self.nested = ({"a": [torch.zeros(2)]}, OrderedDict(x=1, y=2))
        self.keys, self.line, self.bag = {1: "one"}, deque([1, 2]), {1, 2}
        self.thing = type("Thing", (), {})()
        self.thing.tensor, self.thing.steps = torch.ones(3), 0
        self.dice, self.noise = random.Random(3), numpy.random.default_rng(4)
        self.source = torch.Generator().manual_seed(5)


def numbers(x):
    """What a tensor is, to the bit."""
    values = x.detach().contiguous().clone().view(-1).view(torch.uint8).tolist()
    return tuple(x.shape), x.dtype, x.stride(), x.requires_grad, values


def facts(value, path="model"):
    """All that can be told about a value and what it holds, identities too, line by line."""
    told = [f"{path} is {id(value)}"]
    if isinstance(value, torch.Tensor):
        gradient = value.is_leaf and value.grad
        told += [f"{path} has {numbers(value)} {gradient}", f"{path} lies at {value.data_ptr()}"]
    elif isinstance(value, dict):
        for key, one in value.items():
            told += [f"{path} has {key!r} {id(key)}", *facts(one, f"{path}.{key}")]
    elif isinstance(value, list | tuple | deque | set):
        told += [line for i, one in enumerate(value) for line in facts(one, f"{path}[{i}]")]
    elif isinstance(value, nn.Module) or type(value).__name__ == "Thing":
        told += facts(vars(value), path)
    elif isinstance(value, torch.Generator):
        told += [f"{path} has {value.get_state().tolist()}"]
    elif isinstance(value, random.Random):
        told += [f"{path} has {value.getstate()}"]
    elif isinstance(value, numpy.random.Generator):
        told += [f"{path} has {value.bit_generator.state}"]
    else:
        told += [f"{path} has {value!r}"]
    return told


def without_addresses(told):
    """A tensor that is given another shape or type gets its numbers back, in a new place."""
    return [line for line in told if " lies at " not in line]


def deeds():
    """What a forward may do, one function each."""

    def renamed(m):
        m.keys[True] = m.keys.pop(1)

    def reordered(m):
        m.nested[1].move_to_end("x")

    def same_length(m):
        m.keys[1] = "another"

    def hooked(m):
        m.inner.register_forward_hook(lambda *_: None)
        m.norm._buffers["more"] = torch.zeros(3)

    def deleted(m):
        del m.loose, m._buffers["short"]

    def counted(m):
        m.count += 1
        m.seen.fill_(True)
        m.wide.mul_(2)
        m.short[0] = 7

    def under_the_counter(m):
        m.numbers.data[0] = 5
        m.loose.numpy()[:] = 0
        m.array[1] = 8
        m.norm.running_mean.numpy()[0] = 1

    def resized(m):
        m.loose.resize_(2)
        m.numbers.data = torch.zeros(5)

    def retyped(m):
        m.numbers.data = m.numbers.data.double()
        m.short.data = torch.zeros(3)
        m.count.data = m.count.data.int()

    def replaced(m):
        m.inner.weight.data = m.inner.weight.data * 2
        m.inner.bias.data = torch.zeros(7)

    def graded(m):
        m.inner(torch.ones(2, 3)).sum().backward()

    def joined(m):
        m.loose.mul_(m.inner.weight.sum())

    def drawn(m):
        m.dice.random(), m.noise.random(), torch.rand(1, generator=m.source)
        random.gauss(0, 1), numpy.random.standard_normal(), torch.rand(1)

    def deep(m):
        m.nested[0]["a"][0].add_(1)
        m.nested[0]["a"].append(3)
        m.line.rotate(), m.bag.add(3)
        m.thing.steps, m.thing.more = 1, 2
        m.thing.tensor.zero_()

    def moded(m):
        m.eval()
        m.norm.training = 1

    return [v for v in locals().values() if callable(v)]


def generators():
    """States of the global generators, with the second half of a pair of normal numbers."""
    python, legacy = random.getstate(), numpy.random.get_state()
    return python, legacy[1].tolist(), legacy[2:], torch.get_rng_state().tolist()


@pytest.mark.parametrize("deed", deeds(), ids=lambda deed: deed.__name__)
def test_what_a_forward_does_is_taken_back(deed):
    model = Holder()
    numpy.random.standard_normal()  # its other half waits
    before, states = facts(model), generators()
    with unchanged(model):
        deed(model)
        assert facts(model) != before or generators() != states
    if deed.__name__ in ("resized", "retyped"):
        assert without_addresses(facts(model)) == without_addresses(before)
    else:
        assert facts(model) == before
    assert generators() == states


def test_attributes_are_taken_back_as_often_as_is_asked():
    model = Holder()
    back = taking_back(list(model.modules()))
    before = without_addresses(facts(model))
    for deed in deeds():
        if deed.__name__ not in ("replaced", "graded", "drawn"):
            deed(model)
            back()
            assert without_addresses(facts(model)) == before, deed.__name__


def test_a_loss_that_waits_for_its_gradient_does_not_notice():
    model = Holder()
    loss = (model.inner.weight * model.loose[0] * model.thing.tensor).sum()
    state = copy.deepcopy(model.state_dict())
    with unchanged(model):
        model.norm(torch.randn(4, 3))
    loss.backward()
    for name, then in state.items():
        assert numbers(model.state_dict()[name])[::4] == numbers(then)[::4], name


def test_a_meta_model_and_a_sparse_buffer_are_left_as_they_are():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model.register_buffer("few", torch.eye(3).to_sparse())
    with unchanged(model) as kept:
        model(torch.zeros(3, 2, device="meta"))
    parts = kept.parts
    assert len(parts.modules) == 3 and len(parts.parameters) == 4 and len(parts.buffers) == 4


class Tells(nn.Module):
    """Counts how often a mode is set."""

    def __init__(self):
        super().__init__()
        self.inner, self.told = nn.Linear(2, 2), []

    def train(self, mode=True):
        self.told.append(mode)
        return super().train(mode)

    def forward(self, x):
        return self.inner(x) * len(self.told)


@pytest.mark.parametrize("now", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_modules_with_a_say_are_told_of_the_mode_and_all_are_in_it(now, training):
    model = nn.Sequential(nn.Linear(2, 2), Tells())
    model.train(now)
    model[1].told.clear()
    before, modes = list(model[1].told), [m.training for m in model.modules()]
    told, seen = [], []

    def look(*_):
        seen.extend(m.training for m in model.modules())
        told.extend(model[1].told)

    model[0].register_forward_hook(look)
    record(model, ((torch.ones(1, 2),), {}), training=training, fake=False)
    assert seen == [training] * 4
    assert told == [True] if training else told == ([False] if now else [])
    assert model[1].told == before and [m.training for m in model.modules()] == modes


class LeavesThings(nn.Module):
    """Counts its passes, in Python, in a buffer and on its weight, and draws from every generator.

    Which pass it was, shows in what it returns.
    """

    def __init__(self):
        super().__init__()
        self.passes, self.layer = 0, nn.Linear(2, 2)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.passes += 1
        self.seen += 1
        drawn = random.random() + float(numpy.random.rand()) + float(torch.rand(()))
        with torch.no_grad():
            self.layer.weight.mul_(2)
        return self.layer(x) + self.passes + self.seen + drawn


def test_passes_that_share_a_look_at_the_model_do_not_see_what_the_others_left():
    model, call = LeavesThings(), ((torch.randn(3, 2),), {})
    before = everything(model)
    alone = [record(model, call, training=t, fake=False).outputs[0] for t in (False, True)]
    with runs_of(model) as runs:
        together = [runs.record(call, training=t, fake=False).outputs[0] for t in (False, True)]
        again = runs.record(call, training=False, fake=False).outputs[0]
    each = [run.outputs[0] for run in record_each(model, [call], fake=False)]
    assert all(map(torch.equal, alone, together)) and all(map(torch.equal, alone, each))
    assert torch.equal(alone[0], again) and torch.equal(*alone)
    assert everything(model) == before


def test_a_pass_that_fails_is_taken_back_before_the_next():
    model = LeavesThings()
    good = record(model, ((torch.ones(3, 2),), {}), training=True, fake=False).outputs[0]
    before = everything(model)
    with runs_of(model) as runs:
        with pytest.raises(RuntimeError):
            runs.record(((torch.ones(3, 5),), {}), training=True, fake=False)
        run = runs.record(((torch.ones(3, 2),), {}), training=True, fake=False)
    assert torch.equal(run.outputs[0], good)
    assert everything(model) == before


class Slotted:
    """Holds what it holds in slots, one of them hidden, one empty."""

    __slots__ = ("__hidden", "count", "later", "seen")

    def __init__(self):
        self.count, self.seen, self.__hidden = 0, [torch.zeros(2)], 1

    def use(self):
        self.count += 1
        self.seen[0] += 1
        self.seen.append(self.count)
        self.__hidden += 1
        self.later = self.__hidden
        return self.count + self.__hidden


class Below(Slotted):
    """Slots of its own, those of its base, and a dict."""

    __slots__ = ("__dict__", "own")

    def __init__(self):
        super().__init__()
        self.own, self.free = 0, 0

    def use(self):
        self.own, self.free = self.own + 1, self.free + 1
        return super().use() + self.own + self.free


@pytest.mark.parametrize("kind", [Slotted, Below])
def test_what_an_object_holds_in_slots_is_taken_back(kind):
    class Uses(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.state = nn.Linear(2, 2), kind()

        def forward(self, x):
            return self.layer(x) + self.state.use()

    model = Uses()
    call = ((torch.ones(3, 2),), {})
    first, second = (record(model, call, training=False, fake=False).outputs[0] for _ in range(2))
    state = model.state
    assert torch.equal(first, second)
    assert state.count == 0 and state._Slotted__hidden == 1 and not hasattr(state, "later")
    assert len(state.seen) == 1 and torch.equal(state.seen[0], torch.zeros(2))
    assert kind is Slotted or (state.own, state.free) == (0, 0)
