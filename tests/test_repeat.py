"""Repeat: copies of a block of a stack that start as the identity, every part of them alive."""

import copy
import pickle

import pytest
import torch
from torch import nn

import gnomon as gn
from stacks import STACKS, Conv, PostNorm, Scaled, Transformer, flat, made

every_stack = pytest.mark.parametrize("name", STACKS)


def answers(model, inputs):
    """In eval and in train mode, without dropout."""
    found = []
    for training in (False, True):
        own = copy.deepcopy(model).train(training)
        for module in own.modules():
            module.train(training and not isinstance(module, nn.Dropout))
        with torch.no_grad():
            found.append(own(inputs))
    return torch.stack(found)


def change(a, b):
    return float((a.double() - b.double()).abs().max() / a.double().abs().max())


def state(model):
    return {n: t.detach().clone() for n, t in model.state_dict().items()}


def repeat(model, inputs, *morphs, optimizer=None):
    grower = gn.Grower(model, inputs, optimizer)
    return grower, [grower.grow(morph) for morph in morphs]


@every_stack
@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_function_is_kept_and_old_tensors_move_as_they_are(name, at, count):
    model, inputs, stack = made(name)
    before, old = answers(model, inputs), state(model)
    _, (receipt,) = repeat(model, inputs, gn.Repeat(f"{stack}.{at}", count=count))
    moved = change(before, answers(model, inputs))
    assert moved == 0 if name == "resnet" else moved <= 1e-14
    assert receipt.preserves and receipt.plan.claim == "exact"
    assert len(model.get_submodule(stack)) == 3 + count
    now = state(model)
    for key, tensor in old.items():
        assert torch.equal(now[receipt.renamed.get(key, key)], tensor), key
    size = sum(p.numel() for p in model.parameters())
    assert receipt.parameters[1] == size
    assert set(receipt.renamed) == {
        k for k in old if k.startswith(tuple(f"{stack}.{i}." for i in range(at + 1, 3)))
    }


@every_stack
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_moves_no_more_than_its_rounding(name, dtype):
    model, inputs, stack = made(name, dtype)
    before = answers(model, inputs)
    _, (receipt,) = repeat(model, inputs, gn.Repeat(f"{stack}.1", count=2))
    floor = 1e-6 if dtype == torch.float32 else 2e-2
    assert change(before, answers(model, inputs)) <= floor
    assert receipt.largest_change <= max(floor, receipt.noise_floor)


@every_stack
def test_two_growths_in_a_row_and_a_copy_of_a_copy(name):
    model, inputs, stack = made(name)
    before = answers(model, inputs)
    morphs = gn.Repeat(f"{stack}.1"), gn.Repeat(f"{stack}.2"), gn.Repeat(f"{stack}.4", count=2)
    repeat(model, inputs, *morphs)
    assert len(model.get_submodule(stack)) == 7
    assert change(before, answers(model, inputs)) <= 1e-13


@every_stack
def test_all_of_every_copy_learns(name):
    """Within two steps; twins and their readers at the first."""
    model, inputs, stack = made(name)
    repeat(model, inputs, gn.Repeat(f"{stack}.1", count=2))
    for module in model.modules():
        module.train(not isinstance(module, nn.Dropout))
    descent = torch.optim.SGD(model.parameters(), lr=0.05)
    slopes = {}
    for _ in range(2):
        descent.zero_grad()
        (model(inputs) ** 2).mean().backward()
        for key, p in model.named_parameters():
            slopes[key] = max(slopes.get(key, 0.0), float(p.grad.abs().max()))
        descent.step()
    exempt = ("conv2.bias",) if name == "resnet" else ()  # a norm takes it away, in old ones too
    dead = [k for k, slope in slopes.items() if not slope > 1e-9 and not k.endswith(exempt)]
    assert not dead
    one, other = (model.get_submodule(f"{stack}.{i}") for i in (2, 3))
    apart = {
        k for (k, p), q in zip(one.named_parameters(), other.parameters(), strict=True)
        if not torch.equal(p, q)
    }  # fmt: skip
    kernels = {"down.weight", "attention.out.weight"} if name == "transformer" else {"conv2.weight"}
    assert kernels <= apart, "two copies would stay alike"


def test_twins_part_by_training():
    model, inputs, stack = made("cnn")
    repeat(model, inputs, gn.Repeat(f"{stack}.1"))
    kernel = model[1][2].conv1.weight
    assert torch.equal(kernel[0], kernel[1])
    descent = torch.optim.SGD(model.parameters(), lr=0.1)
    (model(inputs) ** 2).mean().backward()
    descent.step()
    assert not torch.equal(kernel[0], kernel[1])


def test_attributes_that_are_a_position_are_corrected():
    model, inputs, _ = made("transformer")
    grower = gn.Grower(model, inputs)
    for morph in (gn.Repeat("blocks.0", count=2), gn.Repeat("blocks.4")):
        grower.grow(morph)
        seen = []
        model(inputs, seen)
        n = len(model.blocks)
        assert seen == list(range(n))
        assert [b.number for b in model.blocks] == list(range(1, n + 1))
        assert {b.attention.heads for b in model.blocks} == {3}
        del seen


def test_a_position_that_cannot_be_told_is_refused():
    model, inputs = Transformer(blocks=1).double(), torch.randn(3, 7, 5).double()
    with pytest.raises(gn.Unsupported, match="two blocks or more"):
        repeat(model, inputs, gn.Repeat("blocks.0"))
    alone = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Sequential(Conv(6))).double()
    repeat(alone, torch.randn(4, 3, 9, 9).double(), gn.Repeat("1.0"))
    assert len(alone[1]) == 2


class Numbers(nn.Module):
    """Says its position by what it computes."""

    def __init__(self, place):
        super().__init__()
        self.place, self.up, self.down = place, nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, x):
        return x + self.down(torch.tanh(self.up(x))) / (1 + self.place)


class Counted(nn.Module):
    """Runs as many blocks as a number says."""

    def __init__(self, build, *, backwards=False):
        super().__init__()
        self.blocks = nn.ModuleList(build(i) for i in range(3))
        self.number, self.backwards = 3, backwards

    def forward(self, x):
        for i in range(self.number):
            x = self.blocks[-1 - i if self.backwards else i](x)
        return x


class Collects(nn.Module):
    """Adds up what its blocks return."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Numbers(0) for _ in range(3))

    def forward(self, x):
        total = 0
        for block in self.blocks:
            x = block(x)
            total = total + x
        return total


def named_stack():
    return nn.Sequential(nn.ModuleDict({"a": nn.Linear(6, 6)})["a"], nn.Linear(6, 6))


class Called(nn.Module):
    """Its block stands in no container."""

    def __init__(self):
        super().__init__()
        self.block = Numbers(0)

    def forward(self, x):
        return self.block(x)


class Ends(nn.Module):
    """x + f(x) where f ends as it is told."""

    def __init__(self, end):
        super().__init__()
        self.up, self.down, self.end = nn.Linear(6, 8), nn.Linear(8, 6), end

    def forward(self, x):
        return x + self.end(self.down(torch.tanh(self.up(x))))


def ends(end):
    return nn.Sequential(*(Ends(end()) for _ in range(3)))


# the model, the path, the kind of refusal and what it says
REFUSED = {
    "post-norm": (lambda: flat(PostNorm), "1.1", gn.CannotPreserve, "post-norm"),
    "scaled stream": (lambda: flat(Scaled), "1.1", gn.CannotPreserve, "mul"),
    "a turned stream": (
        lambda: nn.Sequential(Turns(), Turns()), "0", gn.CannotPreserve, "transpose"),
    "no sum": (named_stack, "1", gn.CannotPreserve, "addmm"),
    "function of the place": (
        lambda: nn.Sequential(*map(Numbers, range(3))), "1", gn.NotProved, "differs"),
    "a number in the code": (
        lambda: Counted(lambda i: Numbers(0)), "blocks.1", gn.GrowthError, "instead of|other path"),
    "backwards": (
        lambda: Counted(lambda i: Numbers(0), backwards=True), "blocks.1",
        gn.GrowthError, "times|path|something else"),
    "collected": (Collects, "blocks.1", gn.GrowthError, "path|operations"),
    "in no container": (Called, "block", gn.NoSuchGroup, "ModuleList"),
    "a container": (lambda: flat(PostNorm), "1", gn.Unsupported, "container"),
    "nothing": (lambda: flat(PostNorm), "1.7", gn.NoSuchGroup, "no module"),
    "a sigmoid behind": (lambda: ends(nn.Sigmoid), "1", gn.CannotPreserve, "nowhere zero"),
    "a softmax behind": (lambda: ends(lambda: nn.Softmax(-1)), "1", gn.CannotPreserve, "zero"),
    "a relu behind": (lambda: ends(nn.ReLU), "1", gn.CannotPreserve, "flat"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_refusals_help_and_change_nothing(kind):
    build, path, error, said = REFUSED[kind]
    torch.manual_seed(0)
    model = build().double()
    inputs = torch.randn(4, next(p for p in model.parameters() if p.dim() > 1).shape[1]).double()
    descent = torch.optim.Adam(model.parameters())
    (model(inputs) ** 2).mean().backward()
    descent.step()
    before, modules = state(model), list(model.modules())
    vars_before = [{k: v for k, v in vars(m).items() if type(v) is int} for m in modules]
    held = copy.deepcopy(descent.state_dict())
    with pytest.raises(error, match=said):
        repeat(model, inputs, gn.Repeat(path), optimizer=descent)
    assert list(model.modules()) == modules
    assert [{k: v for k, v in vars(m).items() if type(v) is int} for m in modules] == vars_before
    now = state(model)
    assert list(now) == list(before) and all(torch.equal(now[k], x) for k, x in before.items())
    assert held.keys() == descent.state_dict().keys()
    assert held["param_groups"] == descent.state_dict()["param_groups"]


@pytest.mark.parametrize("end", [nn.Tanh, nn.GELU, nn.Identity])
def test_branches_may_end_in_an_activation_with_a_root(end):
    torch.manual_seed(0)
    model, inputs = ends(end).double(), torch.randn(5, 6).double()
    before = answers(model, inputs)
    repeat(model, inputs, gn.Repeat("1", count=2))
    assert change(before, answers(model, inputs)) <= 1e-14


class Flattens(nn.Module):
    """Takes the positions together on the stream, and apart again behind the sum."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, x):
        y = x.reshape(-1, 6)
        return (y + self.down(torch.tanh(self.up(y)))).view(x.shape)


def test_the_stream_may_have_another_shape_on_the_way():
    torch.manual_seed(0)
    model, inputs = nn.Sequential(*(Flattens() for _ in range(3))).double(), torch.randn(5, 4, 6)
    inputs = inputs.double()
    before = answers(model, inputs)
    repeat(model, inputs, gn.Repeat("1", count=2))
    assert change(before, answers(model, inputs)) <= 1e-14


class Turns(nn.Module):
    """Its shape comes back, but its entries are in another order."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, x):
        return (x + self.down(torch.tanh(self.up(x)))).transpose(0, 1).reshape(x.shape)


class Summed(Flattens):
    """Two networks whose sum is added to the stream."""

    def __init__(self):
        super().__init__()
        self.more, self.less = nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, x):
        one, two = self.down(torch.tanh(self.up(x))), self.less(torch.relu(self.more(x)))
        return one + two + x


def test_every_summand_of_a_branch_ends_in_zero():
    torch.manual_seed(0)
    model, inputs = nn.Sequential(*(Summed() for _ in range(3))).double(), torch.randn(5, 6)
    inputs = inputs.double()
    before = answers(model, inputs)
    repeat(model, inputs, gn.Repeat("1", count=2))
    assert change(before, answers(model, inputs)) <= 1e-14
    for block in model[2:4]:
        assert not (block.down.weight[:, ::2] + block.down.weight[:, 1::2]).any()
        assert not (block.less.weight[:, ::2] + block.less.weight[:, 1::2]).any()
    assert silent(model, inputs) == []


class Parallel(nn.Module):
    """Attention and mlp side by side, the mlp without hidden twins, both times a layer scale."""

    def __init__(self):
        super().__init__()
        self.norm, self.one, self.two = nn.LayerNorm(6), nn.Linear(6, 6), nn.Linear(6, 8)
        self.three, self.scale = nn.Linear(8, 6), nn.Parameter(torch.full((6,), 0.1))

    def forward(self, x):
        y = self.norm(x)
        return self.one(y) + x + self.scale * self.three(torch.tanh(self.two(y)))


def test_parallel_branches_one_of_which_has_no_twins():
    """A branch of one layer behind the stream: its kernel is zero, the other's twins cancel."""
    torch.manual_seed(0)
    model, inputs = nn.Sequential(*(Parallel() for _ in range(2))).double(), torch.randn(5, 6)
    inputs = inputs.double()
    before = answers(model, inputs)
    repeat(model, inputs, gn.Repeat("0"))
    assert change(before, answers(model, inputs)) <= 1e-14
    assert not model[1].one.weight.any() and model[1].three.weight.all()
    first, second = silent(model, inputs), silent(model, inputs)
    # A scale of what is zero learns, as all before it does, when the layer behind has moved.
    assert first == ["1.scale", "1.norm.weight", "1.norm.bias"] and second == []


def silent(model, inputs):
    """The parameters without a gradient at one step of SGD, which is done."""
    model.zero_grad()
    (model(inputs) ** 2).mean().backward()
    still = [key for key, p in model.named_parameters() if not p.grad.abs().max() > 1e-9]
    torch.optim.SGD(model.parameters(), lr=0.05).step()
    return still


class Shares(nn.Module):
    """Blocks that share a layer, and one that shares its last one."""

    def __init__(self, *, last):
        super().__init__()
        self.blocks = nn.ModuleList(Numbers(0) for _ in range(3))
        for block in self.blocks:
            if last:
                block.down = self.blocks[0].down
            else:
                block.up.bias = self.blocks[0].up.bias

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


def test_a_copy_shares_what_its_block_shares():
    torch.manual_seed(0)
    model, inputs = Shares(last=False).double(), torch.randn(5, 6).double()
    descent = torch.optim.SGD(model.parameters(), lr=0.1)
    before = answers(model, inputs)
    _, (receipt,) = repeat(model, inputs, gn.Repeat("blocks.1"), optimizer=descent)
    assert change(before, answers(model, inputs)) <= 1e-14
    assert model.blocks[2].up.bias is model.blocks[0].up.bias
    assert receipt.parameters[1] == sum(p.numel() for p in model.parameters())
    held = [id(p) for g in descent.param_groups for p in g["params"]]
    assert len(held) == len(set(held)) == len(list(model.parameters()))
    model = Shares(last=True).double()
    with pytest.raises(gn.CannotPreserve, match="alone"):
        repeat(model, inputs, gn.Repeat("blocks.1"))


@every_stack
def test_the_optimizer_goes_along(name):
    model, inputs, stack = made(name)
    kernels = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": kernels}, {"params": vectors, "weight_decay": 0.0}]
    descent = torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.1)
    for _ in range(2):
        descent.zero_grad()
        (model(inputs) ** 2).mean().backward()
        descent.step()
    descent.zero_grad()
    held = {p: copy.deepcopy(s) for p, s in descent.state.items()}
    grower, _ = repeat(model, inputs, gn.Repeat(f"{stack}.1", count=2), optimizer=descent)
    for p, s in held.items():
        assert all(torch.equal(s[k], descent.state[p][k]) for k in s)
    for group, wanted in zip(descent.param_groups, (True, False), strict=True):
        assert all((p.dim() > 1) == wanted for p in group["params"])
    every = {p for group in descent.param_groups for p in group["params"]}
    assert every == set(model.parameters()) and len(grower.new_parameters) == 2 * sum(
        1 for _ in model.get_submodule(f"{stack}.1").parameters()
    )
    (model(inputs) ** 2).mean().backward()
    descent.step()


@every_stack
def test_files_pickles_and_deep_copies(name, tmp_path):
    model, inputs, stack = made(name)
    small = copy.deepcopy(model)
    grower, _ = repeat(
        model, inputs, gn.Repeat(f"{stack}.0", count=2), gn.Repeat(f"{stack}.3"),
        gn.Widen(f"{stack}.1", by=2) if name != "transformer" else gn.Repeat(f"{stack}.1"),
    )  # fmt: skip
    before = answers(model, inputs)
    gn.save(grower, tmp_path / "deep.safetensors")
    again = gn.load(tmp_path / "deep.safetensors", lambda: small, inputs)
    for other in (again, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(answers(other, inputs), before)
    if name == "transformer":
        assert [b.attention.layer_idx for b in again.blocks] == list(range(len(again.blocks)))


@every_stack
def test_a_plan_applies_alike_to_a_copy_and_through_json(name):
    model, inputs, stack = made(name)
    other = copy.deepcopy(model)
    plan = gn.Grower(model, inputs).plan(gn.Repeat(f"{stack}.1", count=2), seed=3)
    assert "a copy whose branches start at zero" in str(plan)
    gn.Grower(model, inputs).grow(plan)
    gn.Grower(other, inputs).grow(gn.Plan.from_json(plan.to_json()))
    one, two = state(model), state(other)
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def test_planning_changes_nothing_and_works_without_weights():
    model, inputs, stack = made("transformer")
    before, modules = state(model), list(model.modules())
    gn.Grower(model, inputs).plan(gn.Repeat(f"{stack}.1", count=3))
    assert list(model.modules()) == modules
    assert all(torch.equal(x, before[k]) for k, x in state(model).items())
    assert [b.attention.layer_idx for b in model.blocks] == [0, 1, 2]
    hollow = copy.deepcopy(model).to("meta")
    plan = gn.Grower(hollow, inputs.to("meta")).plan(gn.Repeat(f"{stack}.1", count=3))
    gn.Grower(model, inputs).grow(plan)
    assert len(model.blocks) == 6


def test_a_frozen_block_has_a_frozen_copy_and_gradients_stay():
    model, inputs, stack = made("cnn")
    for p in model[1][1].parameters():
        p.requires_grad_(requires_grad=False)
    repeat(model, inputs, gn.Repeat(f"{stack}.1"))
    assert not any(p.requires_grad for p in model[1][2].parameters())


@pytest.mark.parametrize(
    "wrong", [{"where": ""}, {"where": 3}, {"count": 0}, {"count": True}, {"twins": 1}]
)
def test_what_makes_no_sense_for_any_model_is_a_value_error(wrong):
    with pytest.raises(ValueError, match="must be"):
        gn.Repeat(**{"where": "a", **wrong})


def test_a_block_that_the_code_never_runs_is_refused():
    class First(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

        def forward(self, x):
            return self.layers[0](x)

    model = First()
    with pytest.raises(gn.Unsupported, match="called 0 times"):
        gn.Grower(model, torch.randn(3, 4)).plan(gn.Repeat("layers.1"))
