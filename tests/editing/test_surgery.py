"""Growing is in place and all or nothing: what is kept, what is refused, what is undone."""

import copy

import pytest
import torch
from torch import nn

import gnomon as gn
import gnomon.editing.surgery
import gnomon.growth
from contracts import tensors


class Counted(nn.Module):
    """Keeps a width that only repair can find, and running statistics."""

    def __init__(self):
        super().__init__()
        self.width = 6
        self.conv = nn.Conv2d(2, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        y = torch.relu(self.norm(self.conv(x))).mean((2, 3))
        return self.head(y.view(-1, self.width))


IMAGE = torch.randn(4, 2, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def trained():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Counted().double()
    optimizer = torch.optim.AdamW(model.parameters(), 0.01, amsgrad=True)
    for _ in range(3):
        optimizer.zero_grad()
        model(IMAGE).square().sum().backward()
        optimizer.step()
    return model, optimizer


def snapshot(model, optimizer):
    """Everything a growth may touch, as plain values that can be compared."""
    attributes = {
        (path, key): value
        for path, module in model.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, int | tuple)
    }
    held = {n: (id(x), x.data_ptr(), x.stride()) for n, x in tensors(model).items()}
    bits = {n: x.detach().clone() for n, x in tensors(model).items()}
    bits |= {f"{n}.grad": p.grad.clone() for n, p in model.named_parameters()}
    for n, p in model.named_parameters():
        bits |= {f"{n}.{key}": v.clone() for key, v in optimizer.state[p].items()}
    return (attributes, len(optimizer._optimizer_step_pre_hooks)), held, bits


def assert_same(before, after):
    assert before[:2] == after[:2]
    assert before[2].keys() == after[2].keys()
    for name, x in before[2].items():
        assert x.dtype == after[2][name].dtype and torch.equal(x, after[2][name]), name


class Accident(Exception):
    pass


def failing(function, call):
    """The function, but its call number `call` raises."""
    seen = []

    def wrapped(*args, **kwargs):
        seen.append(1)
        if len(seen) == call:
            raise Accident(call)
        return function(*args, **kwargs)

    return wrapped


PLACES = [
    *[("gnomon.editing.surgery.grown", call) for call in range(1, 8)],
    *[("gnomon.editing.surgery.carried_state", call) for call in (1, 3)],
    *[("gnomon.editing.surgery.carried", call) for call in (1, 4)],
    *[("gnomon.editing.surgery.set_attribute", call) for call in (1, 2, 3)],
    ("gnomon.growth.repair", 1),
    ("gnomon.code.repair.set_attribute", 1),
    ("gnomon.growth.measure_statistics", 1),
    ("gnomon.growth.write_statistics", 1),
    ("gnomon.growth.prove_algebra", 1),
    ("gnomon.proof.verify.answers", 1),
    ("gnomon.growth.accept", 1),
]


@pytest.mark.parametrize(("place", "call"), PLACES)
def test_an_error_anywhere_leaves_every_bit_as_it_was(place, call, monkeypatch):
    model, optimizer = trained()
    grower = gn.Grower(model, IMAGE, optimizer)
    before = snapshot(model, optimizer)
    module, _, name = place.rpartition(".")
    original = getattr(__import__(module, fromlist=[name]), name)
    monkeypatch.setattr(place, failing(original, call))
    with pytest.raises(Accident):
        grower.grow(gn.Widen("conv", by=2))
    assert_same(before, snapshot(model, optimizer))
    assert grower.history == ()
    monkeypatch.undo()
    assert grower.grow(gn.Widen("conv", by=2)).preserves  # and the next growth works
    assert model.width == 12 and model.conv.out_channels == 12


def test_an_interrupt_is_undone_too(monkeypatch):
    model, optimizer = trained()
    grower = gn.Grower(model, IMAGE, optimizer)
    before = snapshot(model, optimizer)

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("gnomon.growth.prove_algebra", interrupted)
    with pytest.raises(KeyboardInterrupt):
        grower.grow(gn.Widen("conv", by=2))
    assert_same(before, snapshot(model, optimizer))


def test_a_growth_changes_what_the_snapshot_sees():
    """Or the tests above could not fail."""
    model, optimizer = trained()
    before = snapshot(model, optimizer)
    gn.Grower(model, IMAGE, optimizer).grow(gn.Widen("conv", by=2))
    after = snapshot(model, optimizer)
    assert before[0] != after[0] and before[1] != after[1]
    assert sum(x.shape != after[2][n].shape for n, x in before[2].items()) == 7 + 5 + 15


def test_planning_touches_nothing():
    model, optimizer = trained()
    before = snapshot(model, optimizer)
    grower = gn.Grower(model, IMAGE, optimizer)
    plan = grower.plan(gn.Widen("conv", by=2))
    str(plan), str(grower), plan.to_json()
    assert_same(before, snapshot(model, optimizer))


def test_parameters_stay_the_same_objects_with_their_hooks_and_attributes():
    model, optimizer = trained()
    weight, seen = model.conv.weight, []
    weight.lr_scale = 0.5
    weight.register_hook(lambda g: seen.append(g.shape))
    gn.Grower(model, IMAGE, optimizer).grow(gn.Widen("conv", by=2))
    assert model.conv.weight is weight and weight.lr_scale == 0.5
    optimizer.zero_grad()
    model(IMAGE).sum().backward()
    assert seen == [torch.Size([12, 2, 3, 3])] and weight.is_leaf


def test_tied_parameters_stay_tied():
    sizes = (3, 4), (4, 3), (3, 4), (4, 2)
    model = nn.Sequential(*(nn.Linear(*size) for size in sizes))
    model[2].weight = model[0].weight
    gn.Grower(model.double(), IMAGE[:, 0, 0, :3]).grow(gn.Widen("0", by=2))
    assert model[2].weight is model[0].weight and model[0].weight.shape == (8, 3)


def test_a_live_graph_is_refused_and_growing_works_once_it_is_gone():
    model, optimizer = trained()
    grower = gn.Grower(model, IMAGE, optimizer)
    before = snapshot(model, optimizer)
    loss = model(IMAGE).sum()
    with pytest.raises(gn.InUse, match=r"conv.weight"):
        grower.grow(gn.Widen("conv", by=2))
    loss.backward()
    with pytest.raises(gn.InUse, match="drop the loss"):
        grower.grow(gn.Widen("conv", by=2))
    optimizer.zero_grad()
    del loss
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    after = snapshot(model, optimizer)
    assert before[0] == after[0] and before[1] == after[1]
    grower.grow(gn.Widen("conv", by=2))


def test_wrapped_models_are_refused():
    model, _ = trained()
    with pytest.raises(gn.InUse, match="compile"):
        gn.Grower(torch.compile(model, backend="eager"), IMAGE)
    with pytest.raises(gn.InUse, match=r"model\.module"):
        gn.Grower(nn.DataParallel(model), IMAGE)
    with pytest.raises(gn.Unsupported, match="Module"):
        gn.Grower(lambda x: x, IMAGE)


def test_a_model_on_meta_is_analysed_and_planned_but_not_grown():
    with torch.device("meta"):
        model = Counted()
    grower = gn.Grower(model, torch.zeros(4, 2, 5, 5))
    plan = grower.plan(gn.Widen("conv", by=2))
    assert [(w.old, w.new) for w in plan.widths] == [(6, 12)]
    with pytest.raises(gn.Unsupported, match="meta"):
        grower.grow(plan)


def test_a_plan_for_other_widths_or_other_code_is_stale():
    model, optimizer = trained()
    grower = gn.Grower(model, IMAGE, optimizer)
    plan = grower.plan(gn.Widen("conv", by=2))
    grower.grow(plan)
    after = snapshot(model, optimizer)
    with pytest.raises(gn.Stale):
        grower.grow(plan)
    assert_same(after, snapshot(model, optimizer))


def test_an_attribute_that_changed_since_the_plan_is_stale_and_nothing_is_touched():
    model, optimizer = trained()
    grower = gn.Grower(model, IMAGE, optimizer)
    plan = grower.plan(gn.Widen("conv", by=2))
    model.conv.out_channels = 7
    before = snapshot(model, optimizer)
    with pytest.raises(gn.Stale, match="out_channels"):
        grower.grow(plan)
    assert_same(before, snapshot(model, optimizer))


def test_training_between_plan_and_growth_is_fine():
    model, optimizer = trained()
    grower = gn.Grower(model, IMAGE, optimizer)
    plan = grower.plan(gn.Widen("conv", by=2))
    optimizer.zero_grad()
    model(IMAGE).sum().backward()
    optimizer.step()
    before = copy.deepcopy(model).eval()(IMAGE).detach()
    assert grower.grow(plan).largest_change <= 1e-12
    assert torch.allclose(model.eval()(IMAGE), before, rtol=0, atol=1e-12)
