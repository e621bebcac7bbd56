"""Models that are wrapped, weightless, half-reached or changed since the plan: refused in words."""

import copy
import gc
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

import gnomon as gn
from untouched import everything, refused

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


class Net(nn.Module):
    """Two layers, an activation kept as a function, and what else is given."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.act = nn.Linear(4, 6), nn.Linear(6, 3), F.relu
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.act(self.first(x)))


# --- parameters that no recording reaches --------------------------------------------------


@pytest.mark.parametrize(
    "aux", [nn.Linear(6, 2), nn.ModuleList([nn.Linear(6, 2)]), nn.Sequential(nn.Conv1d(6, 2, 1))]
)
def test_a_sibling_that_the_forward_never_reaches_may_read_the_channels(aux: nn.Module) -> None:
    model = Net(aux=aux)
    with refused(gn.Unsupported, "'first'", "never reach", "aux", of=model):
        gn.Grower(model, X).grow(gn.Widen("first", add=2))


def test_an_unreached_parameter_beside_a_slot_is_refused() -> None:
    model = Net()
    model.first.scale = nn.Parameter(torch.ones(6))
    with refused(gn.Unsupported, "'first'", "never reach", "first.scale", of=model):
        gn.Grower(model, X).grow(gn.Widen("first", add=2))


def test_an_unreached_parameter_of_another_width_is_listed_only() -> None:
    grower = gn.Grower(Net(aux=nn.Linear(7, 9)), X)
    assert "aux.weight" in str(grower)
    grower.grow(gn.Widen("first", add=2))


# --- no weights, or wrapped ones -----------------------------------------------------------


def test_a_model_on_meta_is_planned_but_not_grown() -> None:
    with torch.device("meta"):
        model = small()
    grower = gn.Grower(model, X)
    plan = grower.plan(gn.Widen("0", add=2))
    assert plan.widths[0].new == 8 and plan.parameters == (51, 67)
    with refused(gn.Unsupported, "meta", "to_empty", of=model):
        grower.grow(plan)


def test_lazy_layers_stay_lazy() -> None:
    model = nn.Sequential(nn.LazyLinear(6), nn.ReLU(), nn.LazyLinear(3))
    with pytest.raises(gn.Unsupported, match=r"lazy.*run it once"):
        gn.Grower(model, X)
    assert isinstance(model[0], nn.LazyLinear) and model[0].has_uninitialized_params()
    model(X)
    gn.Grower(model, X).grow(gn.Widen("0", add=2))


@pytest.fixture
def group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_data_parallel_wrappers_are_refused_outside_and_inside(group: None) -> None:
    model = small()
    grower = gn.Grower(model, X)
    wrapped = nn.parallel.DistributedDataParallel(model)
    with refused(gn.InUse, "DistributedDataParallel", "model.module", of=wrapped):
        gn.Grower(wrapped, X)
    with refused(gn.InUse, "0.weight", "DDP", of=wrapped):
        grower.grow(gn.Widen("0", add=2))
    wrapped(X).sum().backward()
    del wrapped
    gc.collect()
    model.zero_grad()
    grower.grow(gn.Widen("0", add=2))


def test_a_compiled_wrapper_is_refused_and_the_model_inside_grows() -> None:
    model = small()
    compiled = torch.compile(model, backend="eager")
    with refused(gn.InUse, "compiled", "grow the model itself", of=model):
        gn.Grower(compiled, X)
    gn.Grower(model, X).grow(gn.Widen("0", add=2))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("inside", [False, True])
def test_scripted_modules_are_refused(inside: bool) -> None:
    scripted = torch.jit.script(small())
    model = nn.Sequential(scripted, nn.Linear(3, 2)) if inside else scripted
    with pytest.raises(gn.Unsupported, match=r"scripted.*grow the Python module"):
        gn.Grower(model, X)


# --- a model that changed between plan and growth -------------------------------------------


def replaced_layer(model: Net) -> None:
    model.second = nn.Linear(6, 4)


def replaced_activation_module(model: Net) -> None:
    model.act = nn.Tanh()


def replaced_activation_function(model: Net) -> None:
    model.act = torch.tanh


def grown_by_another(model: Net) -> None:
    gn.Grower(model, X).grow(gn.Widen("first", add=2))


def one_more_operation(model: Net) -> None:
    model.act = lambda h: F.relu(h.clone())


@pytest.mark.parametrize(
    "change",
    [
        replaced_layer,
        replaced_activation_module,
        replaced_activation_function,
        grown_by_another,
        one_more_operation,
    ],
)
def test_a_plan_for_another_model_is_stale(change: object) -> None:
    model = Net()
    grower = gn.Grower(model, X)
    plan = grower.plan(gn.Widen("first", add=2))
    change(model)
    with refused(gn.Stale, "Widen", "plan() again", of=model):
        grower.grow(plan)
    grower.grow(gn.Widen("first", add=2))  # the same grower looks again


def test_a_plan_is_used_once() -> None:
    grower = gn.Grower(Net(), X)
    plan = grower.plan(gn.Widen("first", add=2))
    grower.grow(plan)
    with refused(gn.Stale, "plan() again", of=grower.model):
        grower.grow(plan)


def test_training_and_schedules_in_between_are_fine() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.1), nn.LeakyReLU(0.1), nn.Linear(6, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    grower = gn.Grower(model, X, optimizer)
    plan = grower.plan(gn.Widen("0", add=2))
    model(X).sum().backward()
    optimizer.step()
    model[1].p, model[2].negative_slope = 0.4, 0.3
    grower.grow(plan)
    assert model[0].weight.shape == (8, 4)


# --- the world around ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "context",
    [torch.no_grad, torch.inference_mode, lambda: torch.device("meta"), torch.enable_grad],
    ids=["no_grad", "inference_mode", "default device", "enable_grad"],
)
def test_growing_works_inside_contexts(context: object) -> None:
    model = small()
    old = model(X).detach()
    with context():
        gn.Grower(model, X).grow(gn.Widen("0", add=3))
    assert torch.allclose(model(X), old, atol=1e-6)
    model(X).sum().backward()
    assert model[0].weight.grad.shape == (9, 4)


def test_a_forward_that_enables_gradients_is_not_a_live_loss() -> None:
    class Enables(Net):
        def forward(self, x: Tensor) -> Tensor:
            with torch.enable_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
                return super().forward(x).float()

    model = Enables()
    gn.Grower(model, X).grow(gn.Widen("first", add=2))
    assert model.first.weight.shape == (8, 4)


def test_an_interrupt_in_the_proof_undoes_everything() -> None:
    class Interrupted(Net):
        def forward(self, x: Tensor) -> Tensor:
            if self.first.weight.shape[0] > 6:
                raise KeyboardInterrupt
            return super().forward(x)

    model = Interrupted()
    optimizer = torch.optim.Adam(model.parameters())
    model(X).sum().backward()
    optimizer.step()
    grower = gn.Grower(model, X, optimizer)
    before = everything(model, optimizer)
    with pytest.raises(KeyboardInterrupt):
        grower.grow(gn.Widen("first", add=2))
    assert everything(model, optimizer) == before


def test_a_copy_grows_by_the_same_plan_to_the_same_bits() -> None:
    model = Net()
    average = copy.deepcopy(model)
    grower = gn.Grower(model, X)
    plan = grower.plan(gn.Widen("first", add=3), seed=5)
    grower.grow(plan)
    gn.Grower(average, X).grow(plan)
    assert all(map(torch.equal, model.parameters(), average.parameters()))
