"""A grown model is an ordinary one: export, compile, functional calls and state dicts work."""

import copy

import pytest
import torch

import gnomon as gn
from contracts import growable, growth, tensors
from toys import TOYS

NETWORKS = ["mlp", "resnet", "densenet", "mobile", "resnext", "attention"]


def grown(toy):
    g = growth("R2R", toy)
    return copy.deepcopy(g.new).eval(), g.inputs


@pytest.mark.parametrize("toy", NETWORKS)
def test_a_grown_model_exports(toy):
    model, x = grown(toy)
    program = torch.export.export(model, (x,))
    assert torch.allclose(program.module()(x), model(x), rtol=0, atol=1e-12)
    assert {n: tuple(p.shape) for n, p in program.state_dict.items()} == {
        n: tuple(p.shape) for n, p in model.state_dict().items()
    }


@pytest.mark.parametrize("toy", ["mlp", "resnet", "attention"])
def test_a_grown_model_compiles_and_trains(toy):
    model, x = grown(toy)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.allclose(compiled(x), model(x), rtol=0, atol=1e-12)
    compiled(x).sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())
    torch._dynamo.reset()


def test_a_model_that_was_compiled_before_is_compiled_again_after_growing():
    model, x = TOYS["mlp"].model(), TOYS["mlp"].example()
    compiled = torch.compile(model, backend="eager")
    before = compiled(x).detach()
    gn.Grower(model, x).grow(gn.Widen("*", by=2))
    assert model[0].out_features == 8
    assert torch.allclose(compiled(x), before, rtol=0, atol=1e-12)
    torch._dynamo.reset()


@pytest.mark.parametrize("toy", ["mlp", "resnet"])
def test_functional_calls_and_state_dicts_work(toy):
    model, x = grown(toy)
    state = {n: t.clone() for n, t in model.state_dict().items()}
    again = torch.func.functional_call(model, state, (x,))
    assert torch.equal(again, model(x))
    twin = copy.deepcopy(model)
    twin.load_state_dict(state)
    assert torch.equal(twin(x), model(x))


def test_a_grown_model_can_be_averaged_cast_and_shared():
    model, x = grown("resnet")
    average = torch.optim.swa_utils.AveragedModel(model)
    average.update_parameters(model)
    assert torch.allclose(average(x), model(x))
    half = copy.deepcopy(model).float()
    assert half(x.float()).dtype == torch.float32
    copy.deepcopy(model).share_memory()
    meta = copy.deepcopy(model).to("meta")
    assert all(
        a.shape == b.shape
        for a, b in zip(tensors(meta).values(), tensors(model).values(), strict=True)
    )


def test_gradients_by_function_work_on_grown_parameters():
    model, x = TOYS["mlp"].model(), TOYS["mlp"].example()
    grower = gn.Grower(model, x)
    grower.grow(gn.Widen(growable(grower), by=2))
    slope = torch.func.grad(lambda x: model(x).sum())(x)
    assert slope.shape == x.shape and torch.isfinite(slope).all()
    each = torch.func.vmap(model)(x)
    assert torch.allclose(each, model(x), rtol=0, atol=1e-12)
