"""The page about the scratch frontier, from folders of finished runs that were made up."""

import json
from dataclasses import asdict

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("scipy")

from gnomon.lab.errors import LabError
from gnomon.lab.results.frontier_page import Part, families, page
from gnomon.lab.results.measures import LOSS
from gnomon.lab.running.runs import Result

PARTS = (
    Part("A trained network is at hand", "given", "ratio"),
    Part("All FLOPs counted", "midway", "lead"),
)


def finish(folder, arm, seed, flops, accuracy, loss=None):
    place = folder / arm / f"seed-{seed}"
    place.mkdir(parents=True)
    result = Result(flops=flops, loss=1.0, accuracy=0.5, test_accuracy=accuracy, test_loss=loss)
    (place / "result.json").write_text(json.dumps(asdict(result)))


def made_up(folder, seeds=3):
    for seed in range(seeds):
        off = 0.001 * seed
        for budget, accuracy in ((1, 0.5), (2, 0.6), (4, 0.7)):
            finish(folder, f"scratch@{budget}", seed, 1000 * budget, accuracy + off)
        for budget, accuracy in ((1, 0.65), (2, 0.7)):
            finish(folder, f"given R2R@{budget}", seed, 1000 * budget, accuracy + off)
        finish(folder, "given Net2Net@1", seed, 1000, 0.4 + off)
        finish(folder, "midway R2R@2", seed, 1990, 0.61 + off)
        finish(folder, "small", seed, 500, 0.5)


def test_families_are_read_by_name_and_budget_rules_in_their_order(tmp_path):
    made_up(tmp_path)
    found = families(tmp_path)
    assert list(found) == ["given R2R", "midway R2R", "given Net2Net", "scratch"]
    assert found["scratch"].flops.tolist() == [1000, 2000, 4000]
    assert found["given R2R"].accuracies.shape == (3, 2)


def test_the_tables_say_ratios_and_leads(tmp_path):
    made_up(tmp_path)
    text = page(tmp_path, tmp_path, name="made-up", parts=PARTS)
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if "| 3 |" in line}
    given, midway = text.split("### ")[1:]
    assert "**0.50** (0.50 to 0.50) |" in given  # .7 at 2,000 FLOPs instead of 4,000
    assert "not reached" in rows["Net2Net"]
    assert "61.1% (+1." in midway
    assert (tmp_path / "made-up-frontier.png").stat().st_size > 10_000
    assert (tmp_path / "made-up-frontier.svg").exists()


def test_the_small_network_itself_is_compared_at_equal_flops(tmp_path):
    made_up(tmp_path)
    for seed in range(3):
        finish(tmp_path / "at hand", "small", seed, 2000, 0.65 + 0.001 * seed)
    (tmp_path / "small").rename(tmp_path / "too cheap")
    (tmp_path / "at hand" / "small").rename(tmp_path / "small")
    text = page(tmp_path, tmp_path, name="made-up", parts=PARTS)
    assert "never grown: 65.1% after 2.0 kFLOPs (lead over the frontier there, points: +5.0" in text
    (tmp_path / "small").rename(tmp_path / "gone")
    assert "never grown" not in page(tmp_path, tmp_path, name="made-up", parts=PARTS)


def test_a_frontier_of_the_loss_says_nats_and_less_is_better(tmp_path):
    for seed in range(3):
        for budget, loss in ((1, 2.0), (2, 1.8), (4, 1.6)):
            finish(tmp_path, f"scratch@{budget}", seed, 1000 * budget, 0.5, loss + 0.001 * seed)
        for budget, loss in ((1, 1.7), (2, 1.6)):
            finish(tmp_path, f"given R2R@{budget}", seed, 1000 * budget, 0.5, loss + 0.001 * seed)
        finish(tmp_path, "midway R2R@2", seed, 2000, 0.5, 1.9 + 0.001 * seed)
    text = page(tmp_path, tmp_path, name="loss", parts=PARTS, measure=LOSS)
    given, midway = text.split("### ")[1:]
    assert "2.001 (scratch: 1.0 kFLOPs)" in given and "**0.50** (0.50 to 0.50) |" in given
    assert "1.901 (-0.100 ± 0.000)" in midway and "test loss (lead, nats less)" in midway
    assert (tmp_path / "loss-frontier.png").stat().st_size > 10_000


def test_a_seed_that_lacks_a_budget_is_left_out(tmp_path):
    made_up(tmp_path)
    finish(tmp_path, "scratch@1", 7, 1000, 0.9)
    assert families(tmp_path)["scratch"].seeds == 3


def test_families_of_other_seeds_are_compared_on_those_that_both_have(tmp_path):
    made_up(tmp_path)
    finish(tmp_path, "given R2R@1", 3, 1000, 0.1)
    finish(tmp_path, "given R2R@2", 3, 2000, 0.1)
    assert "| R2R | 3 |" in page(tmp_path, tmp_path, name="made-up", parts=PARTS)


def test_without_the_frontier_there_is_nothing_to_compare_with(tmp_path):
    finish(tmp_path, "given R2R@1", 0, 1000, 0.5)
    with pytest.raises(LabError, match="no finished runs of 'scratch@"):
        page(tmp_path, tmp_path, name="made-up", parts=PARTS)
