"""Islands: who moves, what comes along, and that a stop changes nothing."""

import json
from dataclasses import replace

import pytest
import torch
from small_search import (
    IMAGES,
    SHORT,
    VECTORS,
    change,
    data,
    everything,
    evolution,
    outputs,
    problem,
    same,
)  # fmt: skip

from gnomon.errors import BadCheckpoint
from gnomon.evolution import (
    AnyModel,
    Budget,
    CoEvolution,
    Islands,
    SearchError,
    evaluate,
    search,
    search_islands,
)
from gnomon.evolution.islands.moving import arrive, leave
from gnomon.evolution.population.member import distinct

LONG = replace(SHORT, rounds=5)


def archipelago(count=3, settings=LONG, every=2, immigrants=1, space=VECTORS, **rest):
    made = [evolution(space, settings, seed=seed, **rest) for seed in range(1, count + 1)]
    return Islands(made, every=every, immigrants=immigrants)


def played(islands, rounds, task=None):
    task = task or problem(VECTORS)
    for _, _done in zip(range(rounds), search_islands(islands, task), strict=False):
        pass
    return islands


def immigrants(islands):
    return [
        (i, m) for i, island in enumerate(islands.islands, 1) for m in island.members if m.origin
    ]


# ---- who moves


def test_the_best_move_to_the_next_island_and_take_the_place_of_the_worst():
    islands = played(archipelago(), 3)  # rounds 0, 1, 2
    moves = islands.moves()
    assert [(m.source, m.target) for m in moves] == [(0, 1), (1, 2), (2, 0)]
    for move in moves:
        source, target = islands.islands[move.source], islands.islands[move.target]
        assert move.member is source.best
        assert move.place.score == min(m.score for m in target.members)
    before = [island.members for island in islands.islands]
    islands.begin()
    for move in moves:
        members = islands.islands[move.target].members
        assert move.place not in members and len(members) == len(before[move.target])
        assert members[-1].origin.island == move.source + 1
        assert members[-1].origin.id == move.member.id
        assert move.member in islands.islands[move.source].members or any(
            move.member is other.place for other in moves
        )
    assert islands.moves() == [], "once"
    islands.begin()
    assert [len(i.members) for i in islands.islands] == [len(b) for b in before]


def test_exchanges_come_when_they_are_due_and_not_at_the_end():
    islands, due = archipelago(settings=replace(SHORT, rounds=4)), []
    for rounds in search_islands(islands, problem(VECTORS)):
        if islands.moves():
            due.append(rounds[0].number)
    assert due == [2], "after round 4 nothing follows"


def test_an_immigrant_computes_exactly_what_it_did_and_shares_nothing():
    islands = played(archipelago(), 3)
    moves = islands.moves()
    x, _ = data(VECTORS)
    islands.begin()
    for move in moves:
        target = islands.islands[move.target]
        came = target.members[-1]
        for training in (False, True):
            old = outputs(move.member.network, x, training)
            assert float((old - outputs(came.network, x, training)).abs().max()) == 0.0
        held = {p for m in target.members[:-1] for p in m.parameters.values()}
        at_home = set(distinct(islands.islands[move.source].members).values())
        assert not held & set(came.parameters.values())
        assert not at_home & set(came.parameters.values())
        pointers = {p.data_ptr() for p in at_home}
        assert not pointers & {p.data_ptr() for p in came.parameters.values()}
        assert (came.factor, came.size, came.score) == (
            move.member.factor, move.member.size, move.member.score
        )  # fmt: skip
        row = target.correct[-1]
        home = islands.islands[move.source]
        if move.member in home.members:
            assert torch.equal(row, home.correct[home.members.index(move.member)])
        assert torch.equal(row, evaluate(came, problem(VECTORS)))


def test_the_optimizers_state_comes_along():
    islands = played(archipelago(), 3)
    moves = islands.moves()
    before = [islands.islands[m.source].optimizer.copy_of(m.member) for m in moves]
    islands.begin()
    for move, states in zip(moves, before, strict=True):
        target = islands.islands[move.target]
        now = target.optimizer.copy_of(target.members[-1])
        assert now.keys() == states.keys() and states
        for name in states:
            assert all(torch.equal(now[name][k], v) for k, v in states[name].items())


def test_immigrants_are_selected_and_mutated_like_any_other():
    islands = played(archipelago(every=1, count=2), 6)
    children = [
        birth
        for island in islands.islands
        for birth in island.lineage
        if any(b.origin for b in island.lineage.path(birth.id)) and not birth.origin
    ]
    assert children, "nobody has descended from an immigrant"
    for island in islands.islands:
        for member in island.members:
            way = island.lineage.way(member.id, island.seed)
            assert way[0].mutation is None and all(step.mutation for step in way[1:])
            root = island.lineage.path(member.id)[0]
            assert (root.origin is None) == (root.id == 0)


def test_islands_are_searches_of_their_own_until_they_meet():
    islands, alone = archipelago(count=2, every=3), evolution(VECTORS, LONG, seed=2)
    played(islands, 4)
    for _, _done in zip(range(4), search(alone, problem(VECTORS)), strict=False):
        pass
    assert same(everything(islands.islands[1]), everything(alone))
    assert not same(everything(islands.islands[0]), everything(alone))


def test_what_is_selected_is_selected_among_all():
    islands = played(archipelago(select=CoEvolution()), 2)
    assert islands.best.score == max(m.score for m in islands.members)
    picked = islands.selected(4)
    assert len(picked) == 4 and picked[0].score == islands.best.score
    assert len({islands.name(m) for m in picked}) == 4
    assert islands.spent.steps == 3 * 12 and islands.memory > islands.islands[0].memory


# ---- stop and go on


@pytest.mark.parametrize("stop", [2, 3, 4])
def test_islands_that_are_stopped_end_the_same(tmp_path, stop):
    task, path = problem(VECTORS, recalibration=0), tmp_path / "islands"
    whole = played(archipelago(every=1), 6, task)
    first = archipelago(every=1)
    for _, _done in zip(range(stop), search_islands(first, task, path=path), strict=False):
        pass
    first.begin()  # whatever happens after the last save is done again
    second = archipelago(every=1)
    second.load(path)
    assert second.round == stop and bool(second.moves()) == (stop > 1)
    list(search_islands(second, task))
    assert second.done and same(everything(whole), everything(second))
    a, b = (
        [json.dumps(island.lineage.to_json()) for island in run.islands] for run in (whole, second)
    )
    assert a == b and immigrants(whole)


def test_what_is_saved_after_members_have_moved_does_not_move_them_again(tmp_path):
    islands = played(archipelago(every=1), 3)
    islands.begin()
    islands.save(tmp_path / "islands")
    again = archipelago(every=1)
    again.load(tmp_path / "islands")
    assert again.moves() == [] and same(everything(again), everything(islands))
    for run in (islands, again):
        played(run, 1)
    assert same(everything(again), everything(islands))


def test_more_rounds_make_the_exchange_that_was_not_due_at_the_end(tmp_path):
    whole = played(archipelago(settings=replace(SHORT, rounds=4)), 9)
    short = played(archipelago(settings=replace(SHORT, rounds=2)), 9)
    assert short.done and not immigrants(short)
    short.save(tmp_path / "islands")
    longer = archipelago(settings=replace(SHORT, rounds=4))
    longer.load(tmp_path / "islands")
    played(longer, 9)
    assert same(everything(whole), everything(longer)) and immigrants(whole)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"every": 1}, "of another search: .*'every': 2.* not .*'every': 1"),
        ({"immigrants": 2}, "'immigrants': 1"),
        ({"count": 2}, "'islands': 3.* not .*'islands': 2"),
        ({"select": CoEvolution()}, "its selection"),
    ],
)
def test_a_checkpoint_of_other_islands_is_refused_and_nothing_changes(tmp_path, other, said):
    played(archipelago(), 2).save(tmp_path / "islands")
    run = archipelago(**other)
    before = everything(run)
    with pytest.raises(BadCheckpoint, match=said):
        run.load(tmp_path / "islands")
    assert same(everything(run), before) and run.round == 0


def test_a_checkpoint_that_is_damaged_on_one_island_changes_none(tmp_path):
    state = played(archipelago(), 3).state_dict()
    state["tensors"].pop(next(n for n in state["tensors"] if n.startswith("3|parameter|")))
    run = archipelago()
    before = everything(run)
    with pytest.raises(BadCheckpoint, match="does not fit its own lineage"):
        run.load_state_dict(state)
    assert same(everything(run), before) and run.round == 0
    single, saved = evolution(VECTORS, LONG, seed=1), tmp_path / "islands"
    run.save(saved)
    with pytest.raises(BadCheckpoint, match="format 'islands 1'"):
        single.load(saved)
    single.save(saved)
    with pytest.raises(BadCheckpoint, match="format 1, not 'islands 1'"):
        run.load(saved)


def test_a_way_that_leads_from_nowhere_is_refused():
    state = played(archipelago(every=1), 4).state_dict()
    meta = json.loads(state["meta"])
    births = [b for i in meta["searches"] for b in i["lineage"] if b["origin"]]
    for harm in (
        lambda b: b["origin"].update(way=[]),
        lambda b: b["origin"].update(way=b["origin"]["way"][1:] or [{"seed": 1}]),
        lambda b: b.update(origin=None),
    ):
        damaged = json.loads(json.dumps(meta))
        birth = next(b for i in damaged["searches"] for b in i["lineage"] if b["origin"])
        harm(birth)
        with pytest.raises(BadCheckpoint):
            archipelago(every=1).load_state_dict({**state, "meta": json.dumps(damaged)})
    assert births


# ---- limits and bad input


def test_an_immigrant_for_whom_there_is_no_room_stays_where_it_is():
    islands = played(archipelago(count=2), 3)
    full, free = islands.islands
    full.budget = Budget(memory=1)
    before = full.members
    islands.begin()
    assert full.members == before and not any(birth.origin for birth in full.lineage)
    assert free.members[-1].origin.island == 1


def test_islands_whose_budget_is_spent_get_nobody_and_the_others_go_on():
    made = [
        evolution(VECTORS, LONG, seed=1),
        evolution(VECTORS, LONG, seed=2, budget=Budget(training_flops=100_000)),
    ]
    islands = Islands(made, every=1)
    list(search_islands(islands, problem(VECTORS)))
    assert [i.round for i in made] == [6, min(6, made[1].round)] and made[1].round < 6
    assert "training FLOPs" in islands.ended and "all 5 rounds" in islands.ended
    assert all(b.born < made[1].round for b in made[1].lineage)


def test_numbers_of_islands_that_make_no_sense_are_value_errors():
    for wrong, said in (
        ({"count": 1}, "two or more"),
        ({"every": 0}, "every must be"),
        ({"every": True}, "every must be"),
        ({"immigrants": 0}, "immigrants must be"),
        ({"immigrants": 4}, "immigrants=4 cannot come to a population of size=4"),
    ):
        with pytest.raises(ValueError, match=said):
            archipelago(**wrong)


def test_islands_that_differ_are_refused():
    with pytest.raises(SearchError, match="seeds of their own"):
        Islands([evolution(), evolution()], every=1)
    with pytest.raises(SearchError, match=r"island 2 differs from the first in \['space'\]"):
        Islands([evolution(IMAGES), evolution(VECTORS, seed=1)], every=1)
    with pytest.raises(SearchError, match=r"in \['settings'\]"):
        Islands([evolution(), evolution(settings=replace(SHORT, size=9), seed=1)], every=1)


def test_members_cannot_move_between_different_examples():
    one, two = evolution(VECTORS, seed=1), evolution(VECTORS, seed=2)
    next(search(one, problem(VECTORS)))
    small = problem(VECTORS)
    next(search(two, replace(small, validation=[(x[:4], y[:4]) for x, y in small.held_out()])))
    with pytest.raises(SearchError, match="told on 20 validation examples, those here on 4"):
        arrive(two, leave(one, one.best, island=1), two.best)


def test_an_island_of_any_model_gets_immigrants_too():
    def net():
        return torch.nn.Sequential(
            torch.nn.Linear(5, 6), torch.nn.BatchNorm1d(6), torch.nn.ReLU(), torch.nn.Linear(6, 3)
        ).double()

    space = AnyModel(net, torch.randn(4, 5, dtype=torch.float64))
    islands = played(archipelago(count=2, every=1, space=space), 3)
    moves = islands.moves()
    islands.begin()
    for move in moves:
        came = islands.islands[move.target].members[-1]
        assert change(move.member.network, came.network, torch.randn(7, 5).double()) == 0.0
    again = archipelago(count=2, every=1, space=space)
    again.load_state_dict(islands.state_dict())
    assert same(everything(again), everything(islands))
