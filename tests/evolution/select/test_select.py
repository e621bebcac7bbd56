"""Selections: who goes on, on tables that a reader can check by hand."""

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from gnomon.evolution import Best, CoEvolution, Pareto, Results, Tournament
from gnomon.evolution.chance import Chance

ALL = [
    Best(),
    CoEvolution(),
    CoEvolution(float("inf")),
    Tournament(),
    Pareto(),
    Pareto("parameters"),
]


def results(rows, parameters=None, flops=None):
    correct = torch.tensor(rows, dtype=torch.float64)
    ones = [1] * len(rows)
    return Results(correct, torch.tensor(parameters or ones), torch.tensor(flops or ones))


# Twelve examples: `a` and `b` are right on nearly the same ones, `d` where both are wrong.
#    example  1  2  3  4  5  6  7  8  9 10 11 12
A = [int(i) for i in "111111110000"]  # 8
B = [int(i) for i in "111111100100"]  # 8
C = [int(i) for i in "011111100000"]  # 6
D = [int(i) for i in "000000000111"]  # 3


def test_the_most_accurate_go_on_and_of_equals_the_older_one():
    assert Best().select(results([D, B, A, C]), 3, Chance(0)) == [1, 2, 3]


def test_co_evolution_takes_those_that_are_right_where_others_are_wrong():
    """After a: b counts 7/4 + 1, c 6/4, d 3. After a, d: b counts 7/4 + 1/4 = 2, c 6/4."""
    table = results([A, B, C, D])
    assert CoEvolution(2).select(table, 4, Chance(0)) == [0, 3, 1, 2]


def test_with_power_0_co_evolution_is_best():
    table = results([A, B, C, D])
    assert CoEvolution(0).select(table, 4, Chance(0)) == Best().select(table, 4, Chance(0))


def test_a_lower_power_forgives_doubles():
    """With p = .25 example 1 counts .84 after one: b has 7 * .84 + 1, d only 3."""
    assert CoEvolution(0.25).select(results([A, B, C, D]), 2, Chance(0)) == [0, 1]


def test_hard_co_evolution_counts_an_example_once():
    """b covers 10 beside a, d covers 10, 11, 12; nothing is left for b and c but their accuracy."""
    table = results([C, B, A, D])
    assert CoEvolution(float("inf")).select(table, 4, Chance(0)) == [1, 3, 2, 0]


def test_the_hard_version_is_the_limit_of_large_powers():
    draw = torch.Generator().manual_seed(0)
    for _ in range(20):
        rows = torch.randint(2, (6, 30), generator=draw).tolist()
        hard = CoEvolution(float("inf")).select(results(rows), 3, Chance(0))
        assert CoEvolution(60.0).select(results(rows), 3, Chance(0)) == hard


EQUALS = [
    [0] * 7,
    [0] * 7,
    *([int(c) for c in row] for row in ("1001101", "1100011", "1001011", "1000111")),
]


@example(EQUALS)  # the last two are equals by sums in two orders
@given(st.lists(st.lists(st.booleans(), min_size=7, max_size=7), min_size=1, max_size=6))
def test_co_evolution_does_what_the_recipe_says(rows):
    """First the most accurate; then argmax of mean_j p[j] (1 + c_j)^-2."""
    table, picked = results(rows), []
    for _ in range(min(3, len(rows))):
        c = [sum(rows[m][j] for m in picked) for j in range(7)]
        values = [
            sum(row[j] * (1 + c[j]) ** -2.0 for j in range(7)) if m not in picked else -1.0
            for m, row in enumerate(rows)
        ]
        best = [m for m, v in enumerate(values) if v > max(values) - 1e-9]
        picked.append(max(best, key=lambda m: (sum(rows[m]), -m)))
    assert CoEvolution().select(table, 3, Chance(0)) == picked


def test_a_tournament_of_all_is_best_and_one_of_one_is_chance():
    table = results([D, B, A, C])
    assert Tournament(9).select(table, 3, Chance(0)) == [1, 2, 3]
    first = [Tournament(1).select(table, 1, Chance(seed))[0] for seed in range(200)]
    assert {first.count(row) > 25 for row in range(4)} == {True}


def test_a_tournament_of_two_never_lets_the_worst_win_first():
    table = results([D, B, A, C])
    winners = [Tournament(2).select(table, 1, Chance(seed))[0] for seed in range(100)]
    assert set(winners) == {1, 2, 3} and winners.count(1) > winners.count(2) > winners.count(3)


def test_pareto_takes_the_front_before_what_it_beats():
    """a: 8 right for 9; b: 8 for 5 beats a; c: 6 for 4; d: 3 for 1."""
    table = results([A, B, C, D], flops=[9, 5, 4, 1], parameters=[1, 2, 3, 4])
    assert set(Pareto().select(table, 3, Chance(0))) == {1, 2, 3}
    assert Pareto().select(table, 2, Chance(0)) == [1, 3]  # the ends of the front
    assert Pareto("parameters").select(table, 1, Chance(0)) == [0]


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(1, 5)), min_size=1, max_size=8),
    st.integers(1, 8),
)
def test_nobody_goes_on_while_one_that_beats_it_stays_behind(points, keep):
    rows = [[1.0] * right + [0.0] * (4 - right) for right, _ in points]
    table = results(rows, flops=[cost for _, cost in points])
    picked = Pareto().select(table, keep, Chance(0))
    assert len(picked) == len(set(picked)) == min(keep, len(points))
    for row in picked:
        for other in set(range(len(points))) - set(picked):
            (a, x), (b, y) = points[row], points[other]
            assert not (b >= a and y <= x and (b, y) != (a, x))


@pytest.mark.parametrize("selection", ALL, ids=repr)
def test_every_selection_picks_different_members_and_no_more_than_there_are(selection):
    table = results([A, B, C])
    for keep in (1, 2, 3, 9):
        picked = selection.select(table, keep, Chance(1))
        assert len(set(picked)) == len(picked) == min(keep, 3)
        assert picked == selection.select(table, keep, Chance(1))


def test_impossible_selections_are_value_errors():
    for make in (lambda: CoEvolution(-1), lambda: Tournament(0), lambda: Pareto("memory")):
        with pytest.raises(ValueError):
            make()
