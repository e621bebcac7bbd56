"""A sharded model is refused with what to do, stays as it is, and what the refusal says works."""

import pytest
import torch
from torch import nn

import gnomon as gn

dist = pytest.importorskip("torch.distributed")
fsdp = pytest.importorskip("torch.distributed.fsdp")


@pytest.fixture
def mesh(tmp_path):
    """A world of one process: its parameters are sharded all the same."""
    dist.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    yield dist.init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def small():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))


def step(model, optimizer, x):
    loss = model(x).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def adam(model):
    return torch.optim.AdamW(model.parameters(), foreach=False)


def local(model):
    whole = {n: getattr(p, "_local_tensor", p) for n, p in model.named_parameters()}
    return {n: p.detach().clone() for n, p in whole.items()}


@pytest.mark.parametrize("part", ["whole", "layer", "after training", "kept whole"])
def test_a_sharded_model_is_refused_and_trains_on_as_if_nothing_had_been(mesh, part):
    model, twin, x = small(), small(), torch.randn(4, 6)
    twin.load_state_dict(model.state_dict())
    # what is not resharded after a forward pass holds plain parameters until the next backward
    more = {"reshard_after_forward": False} if part == "kept whole" else {}
    for m in (model, twin):
        fsdp.fully_shard(m[2] if part == "layer" else m, mesh=mesh, **more)
    optimizers = [adam(m) for m in (model, twin)]
    if part == "after training":
        assert step(model, optimizers[0], x) == step(twin, optimizers[1], x)
    if part == "kept whole":
        assert torch.equal(model(x), twin(x))
    before, kinds = local(model), [type(p) for p in model.parameters()]
    with pytest.raises(gn.InUse, match=r"is sharded at .*grow before fully_shard"):
        gn.Grower(model, x, optimizers[0])
    assert all(torch.equal(t, before[n]) for n, t in local(model).items())
    assert [type(p) for p in model.parameters()] == kinds
    assert step(model, optimizers[0], x) == step(twin, optimizers[1], x)


def test_tensor_parallelism_is_refused(mesh):
    parallel = pytest.importorskip("torch.distributed.tensor.parallel")
    model = small()
    parallel.parallelize_module(model, mesh, {"0": parallel.ColwiseParallel()})
    with pytest.raises(gn.InUse, match=r"sharded at '0.weight'"):
        gn.Grower(model, torch.randn(4, 6))


def test_what_is_sharded_after_the_grower_was_made_is_not_grown(mesh):
    model, x = small(), torch.randn(4, 6)
    grower = gn.Grower(model, x)
    plan = grower.plan(gn.Widen("0", by=2))
    fsdp.fully_shard(model, mesh=mesh)
    before = local(model)
    morph = gn.Widen("0", by=2)
    for act in (
        lambda: grower.grow(plan), lambda: grower.grow(morph), lambda: grower.plan(morph),
    ):  # fmt: skip
        with pytest.raises(gn.InUse, match=r"is sharded at .*grow before fully_shard"):
            act()
    assert all(torch.equal(t, before[n]) for n, t in local(model).items())
    step(model, adam(model), x)


def test_what_is_split_among_ranks_after_the_grower_was_made_is_not_grown(mesh):
    parallel = pytest.importorskip("torch.distributed.tensor.parallel")
    model, x = small(), torch.randn(4, 6)
    grower = gn.Grower(model, x)
    plan = grower.plan(gn.Widen("0", by=2))
    parallel.parallelize_module(model, mesh, {"0": parallel.ColwiseParallel()})
    for act in (lambda: grower.grow(plan), lambda: grower.plan(gn.Widen("0", by=2))):
        with pytest.raises(gn.InUse, match=r"sharded at '0.weight'"):
            act()


def test_a_model_grown_before_it_is_sharded_trains(mesh):
    model, x = small(), torch.randn(4, 6)
    before = model(x).detach()
    gn.Grower(model, x).grow(gn.Widen("0", by=2))
    fsdp.fully_shard(model, mesh=mesh)
    optimizer = adam(model)  # before a forward pass puts gathered parameters in place
    assert (model(x) - before).abs().max() <= 1e-5
    losses = [step(model, optimizer, x) for _ in range(5)]
    assert losses[-1] < losses[0] and model[0].weight.shape == (16, 6)


def test_gathered_grown_and_sharded_again(mesh):
    state_dict = pytest.importorskip("torch.distributed.checkpoint.state_dict")
    model, x = small(), torch.randn(4, 6)
    fsdp.fully_shard(model, mesh=mesh)
    step(model, adam(model), x)
    options = state_dict.StateDictOptions(full_state_dict=True, broadcast_from_rank0=False)
    whole = small()
    whole.load_state_dict(state_dict.get_model_state_dict(model, options=options))
    before = model(x).detach()
    gn.Grower(whole, x).grow(gn.Widen("0", by=2))
    fsdp.fully_shard(whole, mesh=mesh)
    optimizer = adam(whole)
    assert (whole(x) - before).abs().max() <= 1e-5
    first = step(whole, optimizer, x)
    assert step(whole, optimizer, x) < first
