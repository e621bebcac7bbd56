"""The search: ask, tell, mutate within limits, stop in good order."""

import random
from dataclasses import dataclass, replace

import numpy
import pytest
import torch
from small_search import IMAGES, SHORT, VECTORS, data, everything, evolution, problem, same

from gnomon.errors import GrowthError, Unsupported
from gnomon.evolution import (
    Budget,
    CoEvolution,
    Diverged,
    Mutation,
    NoMutation,
    OverBudget,
    SearchError,
    Settings,
    Spent,
    Stages,
    WidenStage,
    from_tensors,
    search,
)
from gnomon.evolution.budget import measured_memory


def told(run, right=lambda m: 0.5):
    members = run.ask()
    run.tell({m.id: torch.full((4,), float(right(m))) for m in members})
    return members


def test_a_search_runs_its_rounds_and_keeps_its_sizes():
    run = evolution()
    rounds = list(search(run, problem()))
    assert [r.number for r in rounds] == [0, 1, 2, 3]
    assert [len(r.members) for r in rounds] == [1, 4, 4, 4]
    assert [sum(r.trained.steps.values()) for r in rounds] == [6, 6, 6, 6]
    assert run.done and run.spent.steps == 24 and "all 3 rounds" in run.ended
    assert len(run.selected()) == 2 and run.best.score == max(m.score for m in run.members)
    assert all(0 <= m.score <= 1 for m in run.members)


def test_the_same_seed_gives_the_same_search_and_another_one_another():
    runs = [evolution(seed=seed) for seed in (3, 3, 4)]
    for run in runs:
        torch.manual_seed(id(run) % 1000)  # the global generators play no part
        list(search(run, problem()))
    assert same(everything(runs[0]), everything(runs[1]))
    assert [str(m) for m in runs[0].members] != [str(m) for m in runs[2].members]


def test_a_search_leaves_the_global_generators_alone():
    before = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()
    list(search(evolution(), problem()))
    after = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]


def test_asking_twice_gives_the_same_members():
    run = evolution()
    assert run.ask() == run.ask()
    told(run)
    assert run.ask() == run.ask() and len(run.ask()) == 4


def test_members_that_were_selected_go_on_with_their_children():
    run = evolution(select=CoEvolution())
    told(run)
    told(run, lambda m: m.id == 3)
    assert [m.id for m in run.selected()] == [3, 0]
    members = run.ask()
    assert [m.id for m in members] == [3, 0, 4, 5]
    assert {m.born for m in members[2:]} == {2}
    assert all(m.parent in {0, 3, 4} for m in members[2:])


def test_children_of_this_round_can_be_parents_too():
    parents = set()
    for seed in range(3):
        run = evolution(VECTORS, seed=seed, settings=replace(SHORT, size=8))
        told(run)
        parents |= {m.parent for m in run.ask()[1:]}
    assert len(parents) > 2 and 0 in parents


def test_the_lineage_knows_every_birth():
    run = evolution()
    list(search(run, problem()))
    assert [b.id for b in run.lineage] == list(range(len(run.lineage)))
    for member in run.members:
        path = run.lineage.path(member.id)
        assert path[0].id == 0 and path[-1].id == member.id
        assert [b.id for b in path[:-1]] == [b.parent for b in path[1:]]
        assert path[-1].scores[3] == pytest.approx(member.score)
        assert path[-1].size == member.size


def test_scores_can_be_fractions_and_bools():
    run = evolution()
    run.ask()
    run.tell({0: torch.tensor([0.25, 0.75, 0.5])})
    assert run.members[0].score == 0.5
    run.ask()
    run.tell({m.id: torch.tensor([True, False, True]) for m in run.members})
    assert run.members[0].score == pytest.approx(2 / 3)


# ---- limits


def test_tau_keeps_children_near_their_parents():
    run = evolution(settings=replace(SHORT, size=6, tau=0.8))
    told(run)
    sizes = {m.id: m.size.parameters for m in run.ask()}
    assert all(sizes[m.parent] / sizes[m.id] > 0.8 for m in run.members[1:])
    loose = evolution(settings=replace(SHORT, size=6))
    told(loose)
    free = {m.id: m.size.parameters for m in loose.ask()}
    assert any(free[m.parent] / free[m.id] <= 0.8 for m in loose.members[1:])


@pytest.mark.parametrize("name", ["parameters", "flops"])
def test_no_network_exceeds_its_budget(name):
    base = evolution().members[0].size
    most = int(getattr(base, name) * 1.5)
    run = evolution(settings=replace(SHORT, size=5), budget=Budget(**{name: most}))
    for _ in range(3):
        told(run)
        assert max(getattr(m.size, name) for m in run.members) <= most


def test_the_population_stays_within_its_memory():
    narrow = replace(IMAGES, kernels=((1, 0.5), (3, 0.5)), mutations=(WidenStage,))
    free = evolution(narrow, settings=replace(SHORT, size=6))
    told(free)
    free.ask()
    most = free.memory * 2 // 3
    run = evolution(narrow, settings=replace(SHORT, size=6), budget=Budget(memory=most))
    list(search(run, problem()))
    held = measured_memory(run.members, run.optimizer)
    assert 0.5 * most < sum(held.values()) <= run.memory <= most


def test_when_nothing_fits_any_more_the_population_stays_smaller():
    base = evolution().members[0].size.parameters
    smallest = WidenStage(0, 1)
    run = evolution(budget=Budget(parameters=base + 40), settings=SHORT)
    told(run)
    members = run.ask()
    assert {m.mutation for m in members[1:]} == {smallest}


def test_a_search_stops_when_its_training_flops_are_spent():
    free = evolution()
    list(search(free, problem()))
    most = free.spent.flops // 2
    run = evolution(budget=Budget(training_flops=most))
    rounds = list(search(run, problem()))
    assert 0.8 * most < run.spent.flops <= most
    assert run.done and len(rounds) < 4 and "training FLOPs" in run.ended
    assert run.selected()


def test_a_search_stops_when_its_time_is_spent():
    run = evolution(budget=Budget(seconds=0.5), settings=replace(SHORT, steps=10**6, rounds=10**6))
    list(search(run, problem()))
    assert run.done and 0.5 <= run.spent.seconds < 5 and "seconds" in run.ended
    assert run.selected()
    with pytest.raises(SearchError, match="over"):
        run.ask()


@pytest.mark.parametrize("budget", [Budget(training_flops=1), Budget(seconds=1e-9)])
def test_a_budget_that_pays_no_step_is_told(budget):
    with pytest.raises(OverBudget, match="does not pay a single step"):
        next(search(evolution(budget=budget), problem()))


def test_training_flops_are_three_forward_passes_per_example():
    run = evolution()
    next(search(run, problem(batch=8)))
    assert run.spent == Spent(6, 48, 6 * 3 * 8 * run.members[0].size.flops, run.spent.seconds)


# ---- bad input


def test_more_kept_than_there_are_is_a_value_error():
    with pytest.raises(ValueError, match=r"keep=4 .* size=3"):
        Settings(keep=4, size=3)


@pytest.mark.parametrize(
    ("field", "value"), [("tau", 1.0), ("tau", -0.1), ("keep", 0), ("steps", -1), ("rounds", 2.5)]
)
def test_impossible_settings_are_value_errors(field, value):
    with pytest.raises(ValueError, match=field):
        Settings(**{field: value})


def test_a_tau_that_forbids_every_mutation_is_told_at_once():
    with pytest.raises(NoMutation, match=r"all 12 mutations .* tau = 0\.999"):
        evolution(settings=replace(SHORT, tau=0.999))


@pytest.mark.parametrize("name", ["parameters", "flops", "memory"])
def test_a_budget_below_the_base_is_told_at_once(name):
    with pytest.raises(OverBudget, match=f"base network breaks the budget.* {name}|of memory"):
        evolution(budget=Budget(**{name: 10}))
    with pytest.raises(ValueError, match=name):
        Budget(**{name: 0})


def test_answers_that_do_not_fit_can_be_told_again():
    run = evolution()
    run.ask()
    row = torch.zeros(3)
    for wrong in (
        {},
        {1: row},
        {0: row, 1: row},
        {0: torch.zeros(2, 2)},
        {0: row + 2},
        {0: row[:0]},
    ):
        with pytest.raises(SearchError):
            run.tell(wrong)
    run.tell({0: row})
    with pytest.raises(SearchError, match="ask"):
        run.tell({0: row})
    run.ask()
    with pytest.raises(SearchError, match="of all members alike"):
        run.tell({m.id: torch.zeros(3 + m.id) for m in run.members})
    with pytest.raises(SearchError, match="after tell"):
        run.selected()


def test_a_loss_that_is_no_number_stops_the_search():
    with pytest.raises(Diverged, match=r"member 0 .* lower learning rate"):
        list(search(evolution(), replace(problem(), loss=lambda y, t: y.sum() * float("nan"))))


def test_no_validation_data_are_told():
    x, y = data(IMAGES)
    with pytest.raises(SearchError, match="no validation batches"):
        list(search(evolution(), replace(from_tensors((x, y), (x, y)), validation=[])))


# ---- mutations of one's own


@dataclass(frozen=True)
class Louder(Mutation[Stages]):
    """Not function-preserving: the search must notice."""

    by: float

    @classmethod
    def choices(cls, space, parent):
        return [(cls(2.0), 1.0)]

    def grow(self, space, network, seed):
        network.head.bias.data.add_(self.by)
        return network


@dataclass(frozen=True)
class Broken(Louder):
    """Fails in its own way."""

    def grow(self, space, network, seed):
        raise ZeroDivisionError("on purpose")


@dataclass(frozen=True)
class Forgetful(Louder):
    """Leaves a parameter out."""

    def grow(self, space, network, seed):
        network.features = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(24, 8).double())
        return network


@pytest.mark.parametrize(
    ("kind", "why"),
    [(Louder, "NotProved"), (Broken, "ZeroDivisionError"), (Forgetful, "drops parameters")],
)
def test_a_mutation_that_fails_is_never_in_the_population(kind, why):
    with pytest.raises(NoMutation, match=why):
        evolution(replace(IMAGES, mutations=(kind,)))
    run = evolution(replace(IMAGES, mutations=(kind, WidenStage)))
    told(run)
    assert {type(m.mutation) for m in run.ask()[1:]} == {WidenStage}


def test_errors_of_a_search_are_growth_errors():
    for error in (SearchError, NoMutation, OverBudget, Diverged):
        assert issubclass(error, GrowthError)


def test_a_network_of_another_space_is_refused():
    with pytest.raises(Unsupported, match="no stages"):
        IMAGES.network(torch.nn.Linear(1, 1))


def test_a_member_says_what_it_is():
    run = evolution()
    told(run)
    texts = [str(m) for m in run.ask()]
    assert texts[0].startswith("member 0, the base: ") and "parameters, 0.5000" in texts[0]
    assert all("DeepenStage" in t or "WidenStage" in t for t in texts[1:])
