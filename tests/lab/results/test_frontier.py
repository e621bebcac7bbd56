"""The scratch frontier: costs, ratios and leads on curves that can be worked out by hand."""

import math

import numpy as np
import pytest

pytest.importorskip("scipy")

from gnomon.lab.errors import LabError
from gnomon.lab.results.frontier import Family, at, cost, family, leads, ratios

FLOPS = np.array([1.0, 2.0, 4.0, 8.0])


def curve(*accuracies, name="scratch", seeds=3, flops=FLOPS):
    return Family(name, flops[: len(accuracies)], np.tile(accuracies, (seeds, 1)))


def test_a_cost_lies_between_budgets_in_log2():
    accuracies = np.array([0.2, 0.4, 0.6, 0.6])
    assert cost(FLOPS, accuracies, 0.4) == 2
    assert cost(FLOPS, accuracies, 0.5) == pytest.approx(2**1.5)
    assert cost(FLOPS, accuracies, 0.6) == 4


def test_nothing_is_claimed_below_the_smallest_budget_or_above_the_best_accuracy():
    accuracies = np.array([0.2, 0.4, 0.6, 0.7])
    assert cost(FLOPS, accuracies, 0.1) == 1
    assert cost(FLOPS, accuracies, 0.71) == math.inf
    assert math.isnan(at(FLOPS, accuracies, 0.5))
    assert math.isnan(at(FLOPS, accuracies, 9.0))


def test_a_curve_never_falls():
    one = curve(0.5, 0.7, 0.6)
    assert one.curve().tolist() == pytest.approx([0.5, 0.7, 0.7])
    assert one.envelope()[0].tolist() == [0.5, 0.7, 0.7]


def test_a_family_twice_as_fast_has_ratios_of_one_half_where_it_has_budgets():
    scratch = curve(0.2, 0.4, 0.6, 0.7)
    fast = curve(0.2, 0.4, 0.6, 0.7, name="fast", flops=FLOPS / 2)
    found = ratios(fast, scratch)
    assert [f for f, _ in found] == FLOPS.tolist()
    assert [e.value for _, e in found] == pytest.approx([0.5] * 4)
    assert all(e.low == e.high == e.value for _, e in found)


def test_an_accuracy_that_is_never_reached_costs_infinitely_much():
    found = ratios(curve(0.2, 0.3, name="slow"), curve(0.2, 0.4, 0.6))
    assert [e.value for _, e in found] == [1.0, math.inf, math.inf]


def test_leads_are_paired_by_seed():
    scratch = Family("scratch", FLOPS[:2], np.array([[0.1, 0.3], [0.3, 0.5], [0.5, 0.7]]))
    ahead = Family("ahead", FLOPS[1:2], scratch.accuracies[:, 1:] + 0.05)
    [(budget, lead)] = leads(ahead, scratch)
    assert budget == 2
    assert (lead.value, lead.low, lead.high) == pytest.approx((0.05, 0.05, 0.05))


def test_the_interval_of_a_lead_is_students():
    scratch = Family("scratch", FLOPS[:2], np.zeros((3, 2)))
    ahead = Family("ahead", FLOPS[:1], np.array([[0.0], [0.1], [0.2]]))
    [(_, lead)] = leads(ahead, scratch)
    assert lead.value == pytest.approx(0.1)
    assert lead.high - lead.value == pytest.approx(4.302653 * 0.1 / math.sqrt(3))


def test_the_opponent_is_the_best_budget_up_to_there():
    scratch = curve(0.5, 0.7, 0.6)
    [(_, lead)] = leads(Family("one", FLOPS[2:3], np.full((3, 1), 0.68)), scratch)
    assert lead.value == pytest.approx(-0.02)


def test_an_interval_covers_what_the_seeds_say():
    draw = np.random.default_rng(1)
    noise = draw.normal(0, 0.01, (8, 4))
    scratch = Family("scratch", FLOPS, np.array([0.2, 0.4, 0.6, 0.7]) + noise)
    grown = Family("grown", FLOPS / 2, np.array([0.2, 0.4, 0.6, 0.72]) + noise[::-1])
    for _, estimate in ratios(grown, scratch):
        assert estimate.low <= estimate.value <= estimate.high
        assert estimate.low < estimate.high


def test_a_run_that_is_missing_is_named():
    with pytest.raises(LabError, match=r"'R2R' lacks runs .*\(4, 1\)"):
        family("R2R", {(2, 0): 0.1, (2, 1): 0.2, (4, 0): 0.3})
    with pytest.raises(LabError, match="3 seeds and 'b' 2"):
        leads(curve(0.1, 0.2, name="a"), curve(0.1, 0.2, name="b", seeds=2))
    with pytest.raises(LabError, match="must ascend"):
        curve(0.1, 0.2, flops=np.array([2.0, 2.0]))
