"""Stages of R2R blocks: children compute what their parents do, and all that is new learns."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_search import (
    IMAGES,
    SPACES,
    change,
    data,
    descend,
    family,
    moved_within,
    new_in,
    problem,
    trained,
)

from gnomon.evolution import DeepenStage, Stages, WidenStage
from gnomon.evolution.chance import Chance
from gnomon.evolution.population.birth import child, first
from gnomon.evolution.population.mutating import menu_of


def mutations(space, member):
    menu = menu_of(space, member)
    return [mutation for kind in menu.kinds for mutation, _ in kind]


@pytest.mark.parametrize("name", SPACES)
def test_every_mutation_keeps_the_function_and_all_that_is_new_is_alive(name):
    space = SPACES[name]
    parents = family(space, 2)
    trained(space, parents)
    parent, x = parents[-1], data(space, 7)[0]
    for number, mutation in enumerate(mutations(space, parent), 2):
        member = child(space, parent, mutation, id=number, born=1, seed=3)
        assert change(parent.network, member.network, x) <= 1e-12, mutation
        new = new_in(parent, member)
        assert new
        assert moved_within(member.network, new, problem(space)) == new.keys(), mutation


@pytest.mark.parametrize("name", SPACES)
@given(seed=st.integers(0, 10**6), length=st.integers(1, 5))
@settings(max_examples=6, deadline=None)
def test_chains_keep_the_function(name, seed, length):
    check_chain(SPACES[name], seed, length)


def check_chain(space, seed, length=5):
    """A chain of mutations, trained in between, changes nothing but by training."""
    member, x = first(space, seed=seed), data(space, 5, seed)[0]
    trained(space, [member], steps=2)
    for number in range(1, length + 1):
        grown = descend(space, member, seed, number, number=number, seed=seed)
        assert change(member.network, grown.network, x) <= 1e-12
        new = new_in(member, grown)
        assert moved_within(grown.network, new, problem(space)) == new.keys()
        trained(space, [member, grown], steps=2)
        member = grown


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_a_thousand_random_chains_of_five_keep_the_function(part):
    names = list(SPACES)
    for seed in range(part * 100, part * 100 + 100):
        check_chain(SPACES[names[seed % len(names)]], seed)


def test_widening_adds_a_block_beside_those_of_a_stage():
    base = first(IMAGES, seed=0)
    wide = child(IMAGES, base, WidenStage(1, 5), id=1, born=1, seed=0)
    kernels = [stage.body.kernel_size for stage in wide.network.stages]
    assert kernels == [(3,), (3, 5)]
    assert wide.network.stages[1].body.hidden == (4, 6)


def test_deepening_inserts_a_stage_of_one_block_in_front_of_the_pooling():
    base = first(IMAGES, seed=0)
    deep = child(IMAGES, base, DeepenStage(0, 1), id=1, born=1, seed=0)
    kinds = [type(m).__name__ for m in deep.network.trunk]
    assert kinds == ["Residual", "Residual", "MaxPool2d", "Residual", "MaxPool2d"]
    assert [stage.body.kernel_size for stage in deep.network.stages] == [(3,), (1,), (3,)]


def test_kinds_kernels_and_stages_are_drawn_with_the_papers_odds():
    base = first(IMAGES, seed=0)
    menu, chance = menu_of(IMAGES, base), Chance("odds")
    drawn = [menu.kinds[k][p][0] for k, p in (menu.draw(chance) for _ in range(4000))]
    for kernel, odds in ((1, 0.30), (3, 0.35), (5, 0.35)):
        assert abs(sum(m.kernel == kernel for m in drawn) / 4000 - odds) < 0.03
    assert abs(sum(isinstance(m, WidenStage) for m in drawn) / 4000 - 0.5) < 0.03
    assert abs(sum(m.stage == 0 for m in drawn) / 4000 - 0.5) < 0.03


def test_the_base_is_that_of_the_published_code():
    base = first(Stages(), seed=0)
    assert [m.body.hidden for m in base.network.stages] == [(8,), (16,), (32,)]
    assert base.network.features.hidden.in_features == 64 * 4 * 4
    assert base.network(torch.randn(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden", (2,)), ("outputs", (16, 8, 4)), ("size", 20), ("kernels", ((2, 1.0),)),
        ("kernels", ((1, 0.0),)), ("dims", 0), ("width", 0.0),
    ],
)  # fmt: skip
def test_a_space_that_cannot_be_is_a_value_error(field, value):
    with pytest.raises(ValueError, match=field if field != "dims" else "vectors"):
        Stages(**{field: value})
