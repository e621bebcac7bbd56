"""Students that hold their teacher's parameters: one function, one gradient, own blocks."""

import copy
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrizations

import gnomon as gn
from contracts import answers, change, growable, loss, old_part
from gnomon.recording.snapshot import unchanged
from gnomon.share import Blocks, separate, share
from toys import TOYS
from untouched import everything

RULES = {"R2R": (gn.R2R(), 2), "NetMorph": (gn.NetMorph(), 1.5)}
CELLS = [(rule, toy) for rule in RULES for toy in TOYS]

over_cells = pytest.mark.parametrize(("rule", "toy"), CELLS)


@dataclass
class Shared:
    """A toy, its student and what growing it in place gives. Look, but do not touch."""

    teacher: nn.Module
    student: nn.Module
    grown: nn.Module
    plan: gn.Plan
    inputs: object


@cache
def shared(rule: str, toy: str, dtype: torch.dtype = torch.float64) -> Shared:
    teacher, inputs = TOYS[toy].model(dtype), TOYS[toy].example(dtype)
    for module in teacher.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    grown = copy.deepcopy(teacher)
    grower = gn.Grower(grown, inputs)
    chosen, by = RULES[rule]
    morph = gn.Widen(unscaled(grower, TOYS[toy].literals), by=by, rule=chosen)
    before = everything(teacher)
    student = share(teacher, morph, inputs, seed=3)
    assert everything(teacher) == before
    return Shared(teacher, student, grown, grower.grow(morph, seed=3).plan, inputs)


def unscaled(grower: gn.Grower, literals: tuple[str, ...]) -> list[str]:
    """What can grow, but for keys that make up for another scale, and so do not stay."""
    names = growable(grower, literals)
    linked = [g.name for g in grower.groups if g.linked and g.name in names]
    plans = {name: grower.plan(gn.Widen(name, by=2)) for name in linked}
    scaled = {n for n, plan in plans.items() if any(f != 1 for f in plan.against.values())}
    along = {o for g in grower.groups if g.name in scaled for o in g.along}
    return [name for name in names if name not in scaled | along]


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2)
    ).double()


def batch(*shape: int) -> Tensor:
    draw = torch.Generator().manual_seed(7)
    return torch.randn(shape or (5, 3), generator=draw, dtype=torch.float64)


def difference(a: nn.Module, b: nn.Module, inputs: object) -> float:
    """Of the outputs, in both modes."""
    return max(change(answers(a, inputs, mode), answers(b, inputs, mode)) for mode in (False, True))


def ids(model: nn.Module) -> set[int]:
    return {id(p) for p in model.parameters()}


def memory(model: nn.Module) -> set[int]:
    return {t.data_ptr() for t in [*model.parameters(), *model.buffers()] if t.numel()}


def blocks(model: nn.Module) -> dict[str, Blocks]:
    return {name: m for name, m in model.named_modules() if isinstance(m, Blocks)}


def parts(student: nn.Module, name: str) -> tuple[nn.Parameter, Blocks]:
    """The shared parameter and the blocks that a parameter is computed from."""
    path, _, own = name.rpartition(".")
    ways = student.get_submodule(path).parametrizations[own]
    return ways.original, ways[0]


def new_parameters(teacher: nn.Module, student: nn.Module) -> list[nn.Parameter]:
    return [p for p in student.parameters() if id(p) not in ids(teacher)]


# ---- over all toys


@over_cells
def test_a_student_computes_what_its_teacher_does(rule, toy):
    it = shared(rule, toy)
    assert blocks(it.student)
    assert difference(it.teacher, it.student, it.inputs) <= 1e-12


@over_cells
def test_the_teachers_parameters_are_the_students_and_the_buffers_are_not(rule, toy):
    it = shared(rule, toy)
    assert ids(it.teacher) < ids(it.student)
    added = sum(p.numel() for p in new_parameters(it.teacher, it.student))
    assert added == it.plan.parameters[1] - it.plan.parameters[0]
    buffers = {b.data_ptr() for b in it.student.buffers()}
    assert not buffers & memory(it.teacher)


@over_cells
def test_a_separated_student_is_the_model_grown_in_place(rule, toy):
    it = shared(rule, toy)
    alone = separate(it.student)
    expected, found = it.grown.state_dict(), alone.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert repr(alone) == repr(it.grown)
    if "weight_normed" not in toy:  # torch makes one class for each parametrized module
        assert [type(m) for m in alone.modules()] == [type(m) for m in it.grown.modules()]
    assert not memory(alone) & memory(it.student)


@over_cells
def test_gradients_are_those_of_the_model_grown_in_place(rule, toy):
    it = shared(rule, toy)
    expected, found = gradients(it.grown, it.inputs), gradients(it.student, it.inputs)
    edits = {edit.name: edit for edit in it.plan.edits}
    largest = max(float(g.abs().max()) for g in expected.values())
    for name, parameter in it.grown.named_parameters():
        if parameter not in expected:
            continue
        g = expected[parameter]
        if name in edits:
            old, steps = parts(it.student, name)
            own = {n: found[p] for n, p in steps.named_parameters()}
            assert close(old_part(g, edits[name], it.plan), found[old], largest), name
            assert close(g, functional_call(steps, own, (found[old],)), largest), name
        else:
            assert close(g, found[it.student.get_parameter(name)], largest), name


def gradients(model: nn.Module, inputs: object) -> dict[Tensor, Tensor]:
    """In train mode, with running statistics put back."""
    with unchanged(model):
        own = list(model.train().parameters())
        found = torch.autograd.grad(loss(model, inputs), own, allow_unused=True)
    return {p: g for p, g in zip(own, found, strict=True) if g is not None}


def close(a: Tensor, b: Tensor, largest: float) -> bool:
    """To 1e-12 of the tensor's largest entry; a bias before a norm has only rounding."""
    size = max(float(a.abs().max()), 1e-3 * largest)
    return a.shape == b.shape and float((a - b).abs().max()) <= 1e-12 * size


# ---- training


@pytest.mark.parametrize("toy", ["mlp", "resnet", "densenet", "unet", "resnext", "attention"])
@pytest.mark.parametrize("rule", RULES)
def test_new_blocks_live_within_two_steps(rule, toy):
    it = copy.deepcopy(shared(rule, toy))
    optimizer = torch.optim.SGD(it.student.parameters(), lr=1e-3)
    moved = set()
    for _ in range(2):
        optimizer.zero_grad()
        loss(it.student.train(), it.inputs).backward()
        moved |= {p for p in it.student.parameters() if p.grad is not None and p.grad.abs().max()}
        optimizer.step()
    for name, steps in blocks(it.student).items():
        if it.student.get_submodule(name.rpartition(".")[0]).original in moved:
            assert all(p in moved for p in steps.parameters()), name


def test_each_block_has_optimizer_state_of_its_own():
    teacher, x = mlp(), batch()
    optimizer = torch.optim.Adam(teacher.parameters())
    for _ in range(3):
        step(teacher, optimizer, x)
    student = share(teacher, gn.Widen("0", by=2), x)
    optimizer.add_param_group({"params": new_parameters(teacher, student)})
    step(student, optimizer, x)
    old, steps = parts(student, "2.weight")
    assert old is teacher[2].weight
    assert int(optimizer.state[old]["step"]) == 4
    assert [int(optimizer.state[p]["step"]) for p in steps.parameters()] == [1]


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
    optimizer.zero_grad()
    loss(model, x).backward()
    optimizer.step()


def test_a_step_of_the_student_moves_the_teacher_and_one_of_a_copy_does_not():
    teacher, x = mlp(), batch()
    student = share(teacher, gn.Widen("*", by=2), x)
    before = copy.deepcopy(teacher)
    for alone in (copy.deepcopy(student), separate(student)):
        assert difference(student, alone, x) <= 1e-15
        assert not memory(alone) & (memory(student) | memory(teacher))
        step(alone, torch.optim.SGD(alone.parameters(), lr=0.1), x)
        assert difference(alone, student, x) > 1e-3
        assert difference(before, teacher, x) == 0
    step(student, torch.optim.SGD(student.parameters(), lr=0.1), x)
    assert difference(before, teacher, x) > 1e-3


def test_gradients_of_both_add_up_in_one_place():
    teacher, x = mlp(), batch()
    student = share(teacher, gn.Widen("*", by=2), x)
    loss(teacher, x).backward()
    alone = teacher[2].weight.grad.clone()
    loss(student, x).backward()
    assert torch.allclose(teacher[2].weight.grad, 2 * alone, rtol=1e-12)


def test_a_loss_that_is_alive_stays_alive():
    teacher, x = mlp(), batch()
    alive = loss(teacher, x)
    versions = [p._version for p in teacher.parameters()]
    student = share(teacher, gn.Widen("*", by=2), x)
    assert [p._version for p in teacher.parameters()] == versions
    separate(student)
    alive.backward()


def test_a_student_in_float32_is_as_close_as_rounding_allows():
    for rule in RULES:
        it = shared(rule, "resnet", torch.float32)
        assert difference(it.teacher, it.student, it.inputs) <= 1e-5
        assert {p.dtype for p in it.student.parameters()} == {torch.float32}


# ---- more than one growth


def test_several_morphs_are_applied_in_turn():
    teacher, x = mlp(), batch()
    morphs = [gn.Widen("0", add=2), gn.Widen("*", by=2), gn.Widen("2", add=4, rule=gn.NetMorph())]
    student, grown = share(teacher, morphs, x, seed=5), copy.deepcopy(teacher)
    for i, morph in enumerate(morphs):
        gn.Grower(grown, x).grow(morph, seed=5 + i)
    alone = separate(student).state_dict()
    assert all(torch.equal(alone[name], t) for name, t in grown.state_dict().items())
    assert ids(teacher) < ids(student)
    assert difference(teacher, student, x) <= 1e-12


@pytest.mark.parametrize("toy", ["densenet", "conv_flatten_linear", "weight_normed", "resnet"])
def test_a_student_teaches_another_one(toy):
    it = shared("R2R", toy)
    morph = gn.Widen(
        growable(gn.Grower(separate(it.student), it.inputs)), by=1.5, rule=gn.NetMorph()
    )
    before = everything(it.teacher), everything(it.student)
    second = share(it.student, morph, it.inputs, seed=4)
    assert (everything(it.teacher), everything(it.student)) == before
    assert ids(it.teacher) < ids(it.student) < ids(second)
    assert difference(it.teacher, second, it.inputs) <= 1e-12
    grown = copy.deepcopy(it.grown)
    gn.Grower(grown, it.inputs).grow(morph, seed=4)
    alone, expected = separate(second).state_dict(), grown.state_dict()
    assert list(alone) == list(expected)
    assert all(torch.equal(alone[name], t) for name, t in expected.items())


def test_two_students_have_only_their_teacher_in_common():
    teacher, x = mlp(), batch()
    left = share(teacher, gn.Widen("0", by=2), x, seed=1)
    right = share(teacher, gn.Widen("*", by=3), x, seed=2)
    assert ids(left) & ids(right) == ids(teacher)
    before = copy.deepcopy(right)
    step(left, torch.optim.SGD(new_parameters(teacher, left), lr=0.1), x)
    assert difference(before, right, x) == 0


# ---- structures


class Tied(nn.Module):
    """One weight in two layers that both write the same channels."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(3, 6), nn.Linear(3, 6), nn.Linear(6, 2)
        self.right.weight = self.left.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.left(x).tanh() * self.right(2 * x).tanh())


def test_tied_parameters_stay_tied():
    teacher, x = Tied().double(), batch()
    student = share(teacher, gn.Widen("left", by=2), x)
    left, right = parts(student, "left.weight"), parts(student, "right.weight")
    assert left[0] is right[0] is teacher.left.weight
    assert left[1].block0 is right[1].block0
    assert difference(teacher, student, x) <= 1e-12
    alone = separate(student)
    assert alone.left.weight is alone.right.weight
    assert difference(student, alone, x) <= 1e-15


def test_blocks_of_frozen_parameters_are_frozen():
    teacher, x = mlp(), batch()
    teacher[0].requires_grad_(False)
    student = share(teacher, gn.Widen("0", by=2), x)
    assert not any(p.requires_grad for p in student[0].parameters())
    assert all(p.requires_grad for p in student[2].parameters())
    assert not separate(student)[0].weight.requires_grad


class Recurrent(nn.Module):
    """The flat weights of an LSTM refer to its parameters a second time."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.wide, self.head = nn.LSTM(3, 4), nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.wide(self.lstm(x)[0]).relu())


def test_all_references_to_a_parameter_lead_to_the_teachers():
    teacher, x = Recurrent().double(), batch(4, 2, 3)
    student = share(teacher, gn.Widen("wide", by=2), x)
    assert student.lstm._flat_weights[0] is teacher.lstm.weight_ih_l0
    assert difference(teacher, student, x) <= 1e-12


def test_a_parametrized_teacher_keeps_its_class():
    """Copies of a parametrized module share its class with it, and its properties with that."""
    teacher, x = mlp(), batch()
    parametrizations.weight_norm(teacher[0])
    kinds, old = [type(m) for m in teacher.modules()], teacher(x)
    kept = [properties(kind) for kind in kinds]
    student = share(teacher, gn.Widen("0", by=2), x)
    share(student, gn.Widen("0", by=2), x)
    separate(student)
    assert [type(m) for m in teacher.modules()] == kinds
    assert [properties(kind) for kind in kinds] == kept
    assert torch.equal(teacher(x), old)
    assert difference(student, teacher, x) <= 1e-12


def properties(kind: type) -> set[str]:
    return {name for name, value in vars(kind).items() if isinstance(value, property)}


def test_parameters_in_lists_are_computed_from_blocks_too():
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = nn.ParameterList([torch.rand(6, 3), torch.rand(2, 6)])

        def forward(self, x: Tensor) -> Tensor:
            first, second = self.weights
            return (x @ first.T).relu() @ second.T

    teacher, x = Listed().double(), batch()
    student = share(teacher, gn.Widen("*", by=2), x)
    assert ids(teacher) < ids(student)
    assert difference(teacher, student, x) <= 1e-12


def test_a_student_is_made_the_same_under_any_mode():
    teacher, x = mlp(), batch()
    with torch.inference_mode(), torch.device("meta"):
        student = share(teacher, gn.Widen("*", by=2), x)
    assert not any(p.is_inference() or p.is_meta for p in student.parameters())
    assert difference(teacher, student, x) <= 1e-12
