"""Recording: what is seen, and that the model, its buffers and all generators are put back."""

import copy
import random

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gnomon as gn
from contracts import tensors
from gnomon.recording.tape import calls_of, owned_tensors, record, tensors_in, wants_fake
from toys import TOYS


class Messy(nn.Module):
    """Does in its forward pass what forward passes should not do, but do."""

    def __init__(self):
        super().__init__()
        self.enter, self.norm, self.head = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)
        self.drop = nn.Dropout(0.5)
        self.cache, self.seen, self.table = None, [], {"calls": 0}
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("ema", torch.zeros(4))

    def forward(self, x):
        self.cache = y = self.norm(self.enter(x))
        self.seen.append(y.shape)
        self.table["calls"] += 1
        self.table[len(self.table)] = y
        self.flag = True
        self.count += 1
        self.ema = 0.9 * self.ema + y.detach().mean(0)
        random.random(), numpy.random.rand(), torch.rand(1)
        x.mul_(1.0)
        return self.head(self.drop(torch.relu(y)))


def states():
    return random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def every_attribute(model):
    return [
        {k: (id(v), dict(v) if isinstance(v, dict) else list(v) if isinstance(v, list) else v)
         for k, v in vars(m).items() if not k.startswith("_")}
        for m in model.modules()
    ]  # fmt: skip


@pytest.mark.parametrize("work", ["analyse", "plan", "grow", "refused", "record", "fake"])
def test_a_messy_model_is_put_back_exactly(work):
    model, x = Messy(), torch.randn(5, 3)
    model.norm.eval()  # a frozen norm in a training model
    modes = [m.training for m in model.modules()]
    attributes, generators, before = every_attribute(model), states(), x.clone()
    buffers = {n: (id(b), b.clone()) for n, b in model.named_buffers()}
    if work in ("record", "fake"):
        record(model, ((x,), {}), training=True, fake=work == "fake")
    else:
        grower = gn.Grower(model, x)
    if work == "plan":
        grower.plan(gn.Widen("enter", by=2))
    if work == "refused":
        with pytest.raises(gn.GrowthError):
            grower.grow(gn.Widen("head", by=2))
    assert states() == generators and torch.equal(x, before)
    assert [m.training for m in model.modules()] == modes
    if work == "grow":
        return
    assert repr(every_attribute(model)) == repr(attributes)
    for name, b in model.named_buffers():
        assert (id(b), b.tolist()) == (buffers[name][0], buffers[name][1].tolist()), name
    assert not model._forward_hooks and not nn.modules.module._global_forward_hooks


def test_growing_touches_no_generator_and_no_flag():
    model, x = Messy(), torch.randn(5, 3)
    model.norm.eval()
    generators = states()
    gn.Grower(model, x).grow(gn.Widen("enter", by=2, rule=gn.Hybrid()))
    assert states() == generators
    assert model.cache is None and model.seen == [] and model.table == {"calls": 0}
    assert not hasattr(model, "flag") and not model.norm.training and model.training
    assert model.ema.shape == (8,) and not model.ema.any() and not model.count


def accelerator_state():
    """The generator of CUDA, or the seed that waits for CUDA to start."""
    if torch.cuda.is_initialized():
        return torch.cuda.get_rng_state().tolist()
    return torch.cuda._lazy_seed_tracker.manual_seed_all_cb


def test_the_seed_of_an_accelerator_is_left_alone_even_before_it_starts():
    model, x = TOYS["mlp"].model(), TOYS["mlp"].example()
    torch.manual_seed(42)  # a user's: it must still be the one that CUDA starts with
    before = accelerator_state()
    gn.Grower(model, x).grow(gn.Widen("0", by=2))
    assert accelerator_state() == before


def test_a_forward_that_fails_leaves_the_model_as_it_was():
    class Fails(Messy):
        def forward(self, x):
            super().forward(x)
            raise RuntimeError("no such image")

    model, generators = Fails(), states()
    attributes = repr(every_attribute(model))
    with pytest.raises(gn.Unsupported, match="RuntimeError: no such image"):
        gn.Grower(model, torch.ones(5, 3))
    assert states() == generators and repr(every_attribute(model)) == attributes
    assert not nn.modules.module._global_forward_hooks
    assert torch.get_rng_state() is not None and torch.is_grad_enabled()


@pytest.mark.parametrize("toy", ["resnet", "attention", "dropout", "named", "two_paths"])
def test_fake_and_real_recordings_find_the_same_groups(toy, monkeypatch):
    spec = TOYS[toy]
    real = gn.Grower(spec.model(), spec.example()).groups
    monkeypatch.setattr("gnomon.recording.tape.REAL_PARAMETERS", 0)
    model = spec.model()
    before = {n: x.detach().clone() for n, x in tensors(model).items()}
    fake = gn.Grower(model, spec.example())
    assert fake.groups == real
    names = [g.name for g in fake.groups if g.verdict == "growable"]
    assert all(torch.equal(x, before[n]) for n, x in tensors(model).items())
    assert fake.grow(gn.Widen(names, by=2)).largest_change <= 1e-12


def test_operations_come_with_their_modules_and_the_parameter_objects():
    model = TOYS["mlp"].model()
    recording = record(model, ((TOYS["mlp"].example(),), {}), training=False, fake=False)
    products = [op for op in recording.ops if op.name == "addmm"]
    assert [op.path[-1] for op in products] == [model[0], model[2], model[4]]
    assert products[0].path[0] is model and products[1].args[0] is model[2].bias
    assert recording.outputs[0].shape == (5, 2) and recording.inputs[0].shape == (5, 3)


def test_random_operations_give_their_mean_and_are_named():
    class Noisy(nn.Module):
        def forward(self, x):
            noise = torch.randn_like(x) + torch.rand(x.shape) + torch.zeros_like(x).uniform_(2, 4)
            return F.dropout(x, 0.5, self.training) + noise + torch.bernoulli(x, 0.25)

    recording = record(Noisy(), ((torch.ones(2, 3),), {}), training=True, fake=False)
    expected = torch.full((2, 3), 1 + 0 + 0.5 + 3 + 0.25)
    assert torch.allclose(recording.outputs[0], expected)
    assert {"native_dropout", "randn_like", "rand", "uniform_", "bernoulli"} & recording.random
    model = TOYS["dropout"].model()
    assert any(
        "dropout" in n or "bernoulli" in n
        for n in gn.Grower(model, TOYS["dropout"].example()).analysis.random
    )


@pytest.mark.parametrize(
    ("given", "count"),
    [
        (torch.ones(2), 1),
        ((torch.ones(2), 3), 1),
        ({"x": torch.ones(2)}, 1),
        ([torch.ones(2), (torch.ones(2),), {"x": [torch.ones(2)]}], 3),
    ],
)
def test_example_inputs_are_a_tensor_a_tuple_a_dict_or_a_list_of_calls(given, count):
    assert len(calls_of(given)) == count


@pytest.mark.parametrize("given", [None, 3, [], "x", {}, (), [torch.ones(2), None]])
def test_inputs_without_a_tensor_are_refused(given):
    with pytest.raises(gn.Unsupported, match="example_inputs"):
        gn.Grower(nn.Linear(2, 2), given)


def test_tensors_are_found_in_nested_results():
    x = torch.ones(2)
    assert len(tensors_in({"a": [x, (x, {"b": x})], "c": None, "d": "text"})) == 3


def test_shared_tensors_are_listed_once():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    assert list(owned_tensors(model)) == ["0.weight", "0.bias", "1.bias"]


def test_large_inputs_are_recorded_on_fake_tensors():
    model = nn.Linear(3, 2)
    assert not wants_fake(model, calls_of(torch.ones(5, 3)))
    assert wants_fake(model, calls_of(torch.ones(50_000, 3)))


def test_numbers_of_the_code_keep_their_values_on_fake_tensors():
    class Asks(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            times = torch.tensor(2).item()
            return sum(self.b(self.a(x.to(self.a.weight.device))) for _ in range(times))

    call = ((torch.randn(5, 3),), {})
    real, fake = (record(Asks(), call, training=False, fake=f).ops for f in (False, True))
    assert [(op.name, op.shapes) for op in real] == [(op.name, op.shapes) for op in fake]
    assert sum(op.name == "addmm" for op in fake) == 4


def test_fake_recordings_hold_the_parameters_themselves():
    model, call = nn.Linear(3, 2), ((torch.randn(5, 3),), {})
    ops = record(model, call, training=True, fake=True).ops
    given = [x for op in ops for x in op.tensors()]
    assert {id(p) for p in model.parameters()} <= {id(x) for x in given}


class KeepsBiases(nn.Module):
    """Computes its biases once in eval mode, and anew whenever a mode is set."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)
        self.bias, self.kept = nn.Parameter(torch.randn(4)), {}

    def train(self, mode=True):
        self.kept = {}
        return super().train(mode)

    def forward(self, x):
        if self.training:
            return self.b((self.a(x) + self.bias * 2).relu())
        if "bias" not in self.kept:
            self.kept["bias"] = self.bias * 2
        return self.b((self.a(x) + self.kept["bias"]).relu())


@pytest.mark.parametrize("warm", [False, True])
def test_a_model_that_keeps_tensors_between_passes_still_runs_after_growth(warm):
    model, x = KeepsBiases().eval(), torch.randn(5, 3)
    old = copy.deepcopy(model)(x).detach()
    with torch.no_grad():
        if warm:
            model(x)
    gn.Grower(model, x).grow(gn.Widen("a", add=2))
    assert model.a.out_features == 6
    assert torch.allclose(model(x), old, atol=1e-6)
    model.train().eval()
    gn.Grower(model, x).grow(gn.Widen("a", add=2))
    assert torch.allclose(model(x), old, atol=1e-6)
