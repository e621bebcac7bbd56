"""The space around any model: what is found on its tape, and that children keep the function."""

import copy
from dataclasses import replace
from functools import cache, partial

import pytest
import torch
from small_search import ADAM, SHORT, change, everything, moved_within, new_in, same
from torch import nn

import gnomon as gn
from gnomon.errors import BadCheckpoint, CannotPreserve, Unsupported
from gnomon.evolution import (
    AddBranch,
    AnyModel,
    Evolution,
    InsertBlock,
    Joint,
    Problem,
    SharedOptimizer,
    WidenGroup,
    search,
)
from gnomon.evolution.chance import Chance
from gnomon.evolution.mutations.sites import sites_of
from gnomon.evolution.population.birth import child, first, prove
from gnomon.evolution.population.member import distinct
from gnomon.evolution.population.mutating import menu_of
from gnomon.models import DigitsNet
from toys import TOYS

KINDS = {"AddBranch": AddBranch, "InsertBlock": InsertBlock, "WidenGroup": WidenGroup}
NAMES = ["mlp", "resnet", "conv_bn_relu", "densenet"]


def space_of(name, **rest):
    toy = TOYS[name]
    return AnyModel(toy.model, toy.example(), hidden=1.0, by=0.5, **rest)


def problem_of(space, count=64):
    """Regression onto random numbers, on enough inputs that no ReLU is dead by chance."""
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(count, *space.example_inputs.shape[1:], generator=draw).double()
    y = torch.randn(space.build()(x).shape, generator=draw).double()
    half = count // 2

    def batch(generator):
        rows = torch.randint(len(x), (half,), generator=generator)
        return x[rows], y[rows]

    return Problem(
        batch, [(x, y)], nn.functional.mse_loss,
        lambda out, t: ((out - t).abs() < 1).flatten(1).double().mean(1), recalibration=2,
    )  # fmt: skip


@cache
def base_of(name):
    """The base, after some steps."""
    space = space_of(name)
    member = first(space, seed=0)
    optimizer = SharedOptimizer(partial(torch.optim.SGD, lr=1e-3))
    Joint(problem_of(space), optimizer, 4).train([member], "base")
    return space, member


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_every_mutation_keeps_the_function_and_all_that_is_new_is_alive(name, kind):
    space, parent = base_of(name)
    choices = KINDS[kind].choices(space, parent)
    assert choices
    x, made = space.example_inputs, 0
    for number, (mutation, _) in enumerate(choices[:: max(1, len(choices) // 4)], 1):
        try:
            member = child(space, parent, mutation, id=number, born=1, seed=2)
        except gn.GrowthError:
            continue
        made += 1
        assert change(parent.network, member.network, x) <= 1e-12, mutation
        new = new_in(parent, member)
        assert new and moved_within(member.network, new, problem_of(space)) == new.keys(), mutation
        shared = {key for key in parent.parameters if key not in parent_own(parent)}
        assert all(member.parameters[key] is parent.parameters[key] for key in shared)
        assert not parent_own(parent) & member.parameters.keys()
    assert made


def parent_own(parent):
    return {parent.keys[name] for name in parent.own}


@pytest.mark.parametrize("name", NAMES)
def test_chains_keep_the_function(name):
    check_chain(name, seed=1, length=3)


def check_chain(name, seed, length=5):
    """Trained in between: behind a block that is still zero a ReLU may see nothing but zeros."""
    space, member = base_of(name)[0], first(base_of(name)[0], seed=seed)
    train = Joint(problem_of(space), SharedOptimizer(ADAM), 4).train
    train([member], "chain", seed)
    x, chance = space.example_inputs, Chance("chain", name, seed)
    for number in range(1, length + 1):
        menu, grown = menu_of(space, member), None
        while grown is None:
            kind, place = menu.draw(chance)
            try:
                mutation = menu.kinds[kind][place][0]
                made = child(space, member, mutation, id=number, born=1, seed=seed)
                prove(space, member, made)
                grown = made
            except gn.GrowthError as why:
                menu.strike(kind, place, str(why))
        assert change(member.network, grown.network, x) <= 1e-12, grown.mutation
        new = new_in(member, grown)
        assert moved_within(grown.network, new, problem_of(space)) == new.keys(), grown.mutation
        train([grown], "chain", seed, number)
        member = grown


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
@pytest.mark.parametrize("name", NAMES)
def test_random_chains_of_five_keep_the_function(name, part):
    for seed in range(part * 25, part * 25 + 25):
        check_chain(name, seed)


def digits():
    x = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    return AnyModel(lambda: DigitsNet(2).double(), x, by=0.5)


def test_sites_are_modules_in_front_of_the_head_that_are_called_once_on_a_tensor():
    space = digits()
    base = first(space, seed=0)
    assert base.own == {"head.weight", "head.bias"}
    sites = {site.path: site for site in sites_of(base, space.calls)}
    assert "stage1" in sites and "head" not in sites
    wide = sites["stage2"]
    assert wide.has_layer and wide.dims == 2 and wide.stride == 2
    assert (wide.channels(wide.inputs), wide.channels(wide.outputs)) == (2, 4)
    assert not any("relu" in site.path for site in sites.values() if site.has_layer)


def test_a_branch_beside_a_branch_joins_it():
    space = digits()
    base = first(space, seed=0)
    make = [m for m, _ in AddBranch.choices(space, base) if m.where == "stage2"]
    assert {m.kernel for m in make} == {1, 3, 5} and make[0].norm and make[0].stride == 2
    once = child(space, base, make[0], id=1, born=1, seed=0)
    twice = child(space, once, make[1], id=2, born=1, seed=0)
    assert [type(m).__name__ for m in twice.network.stage2.paths] == [
        type(base.network.stage2).__name__, "R2RBlock", "R2RBlock"
    ]  # fmt: skip


def test_the_head_stays_a_members_own_when_it_reads_more():
    space = digits()
    base = first(space, seed=0)
    group = next(m for m, _ in WidenGroup.choices(space, base) if m.group == "stage2.shortcut.conv")
    wide = child(space, base, group, id=1, born=1, seed=0)
    assert wide.own == {
        "head.bias", "head.parametrizations.weight.original",
        "head.parametrizations.weight.0.block0",
    }  # fmt: skip
    next_one = child(space, wide, InsertBlock("stage1"), id=2, born=1, seed=0)
    assert not {wide.keys[n] for n in wide.own} & next_one.parameters.keys()


def test_models_of_vectors_and_tokens_take_linear_branches():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.norm, self.head = nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3)

        def forward(self, x):
            return self.head(self.norm(self.up(x)).mean(1))

    x = torch.randn(4, 5, 4).double()
    space = AnyModel(lambda: Tokens().double(), x)
    base = first(space, seed=0)
    [(branch, _)] = AddBranch.choices(space, base)
    assert branch == AddBranch("up", 4, 6, 4, 1, 1, 0, False)
    made = child(space, base, branch, id=1, born=1, seed=0)
    assert change(base.network, made.network, x) <= 1e-12


def test_a_search_around_a_model_runs_resumes_and_shares(tmp_path):
    space = space_of("resnet", kernels=((1, 0.5), (3, 0.5)))
    task, path = problem_of(space), tmp_path / "search.safetensors"

    def made():
        return Evolution(space, ADAM, settings=replace(SHORT, steps=4, first_steps=4), seed=5)

    whole = made()
    list(search(whole, task))
    for stop in (1, 2):
        run = made()
        if path.exists():
            run.load(path)
        next(search(run, task, path=path))
        assert run.round == stop
    run = made()
    run.load(path)
    list(search(run, task, path=path))
    assert same(everything(whole), everything(run))
    kinds = {type(m.mutation).__name__ for m in run.members if m.mutation}
    assert kinds <= KINDS.keys() and len(run.members) == 4
    held = sum(p.numel() for p in distinct(run.members).values())
    assert held < sum(m.size.parameters for m in run.members)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    space, other = space_of("mlp"), space_of("resnet")
    Evolution(space, ADAM, settings=SHORT).save(tmp_path / "x")
    with pytest.raises(BadCheckpoint, match="its space is AnyModel"):
        Evolution(other, ADAM, settings=SHORT).load(tmp_path / "x")


def test_what_build_must_make_and_where_the_head_is():
    with pytest.raises(Unsupported, match="made a int"):
        first(AnyModel(lambda: 3, torch.ones(2, 3)), seed=0)
    with pytest.raises(Unsupported, match=r"classifier of ReLU .* name it"):
        first(AnyModel(nn.ReLU, torch.ones(2, 3)), seed=0)
    with pytest.raises(Unsupported, match="'nowhere' holds no parameters"):
        first(replace(digits(), classifier="nowhere"), seed=0)
    assert first(replace(digits(), classifier="stage2"), seed=0).own > {"stage2.body.conv1.weight"}
    assert not first(AnyModel(TOYS["einsum"].model, TOYS["einsum"].example(), ""), seed=0).own
    for field, value in (("by", 0), ("hidden", -1), ("kernels", ((4, 1.0),))):
        with pytest.raises(ValueError, match=field):
            replace(digits(), **{field: value})


def test_a_model_whose_code_reads_a_layer_gets_no_branch_there():
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.a(x) * self.a.weight.mean())

    space = AnyModel(lambda: Reads().double(), torch.randn(4, 4).double())
    base = first(space, seed=0)
    [(branch, _)] = AddBranch.choices(space, base)
    with pytest.raises(Unsupported, match="does not run"):
        child(space, base, branch, id=1, born=1, seed=0)


def test_a_block_that_would_not_learn_is_not_proposed():
    class Shut(nn.Module):
        """Whatever stands behind `a` reaches no output."""

        def __init__(self):
            super().__init__()
            self.a, self.head = nn.Linear(3, 2), nn.Linear(2, 2)

        def forward(self, x):
            return self.head(self.a(x) * 0 + x[:, :2])

    space = AnyModel(lambda: Shut().double(), torch.randn(4, 3).double())
    base = first(space, seed=0)
    made = child(space, base, InsertBlock("a"), id=1, born=1, seed=0)
    with pytest.raises(CannotPreserve, match="would not learn: no gradient reaches"):
        prove(space, base, made)


def test_what_learns_from_the_second_step_on_may_be_proposed():
    """A branch whose last layer is zero: its first layer gets a gradient once that has moved."""
    space = digits()
    base = first(space, seed=0)
    made = child(space, base, AddBranch.choices(space, base)[0][0], id=1, born=1, seed=0)
    block = next(m for m in made.network.modules() if isinstance(m, gn.R2RBlock)).branches[0]
    nn.init.zeros_(block.conv2.weight)
    prove(space, base, made)
    nn.init.zeros_(block.conv1.weight)
    with pytest.raises(CannotPreserve, match=r"conv1\.weight.*conv2\.weight"):
        prove(space, base, made)


def test_the_users_model_is_not_touched():
    model = DigitsNet(2).double()
    before = copy.deepcopy(model.state_dict())
    x = torch.randn(6, 1, 8, 8).double()
    space = AnyModel(lambda: copy.deepcopy(model), x)
    run = Evolution(space, ADAM, settings=replace(SHORT, steps=2, first_steps=2, rounds=1))
    list(search(run, problem_of(space)))
    assert all(
        torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True)
    )
