"""Contests: every arm gets what it was promised, is tested once, and says what it took."""

import json
from dataclasses import replace

import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("filelock")

from tiny_contest import ARMS, FEW, bench, search

from gnomon.evolution import Best
from gnomon.evolution.ensemble import right_of
from gnomon.lab.contest import joining, searching
from gnomon.lab.contest.alone import network_of
from gnomon.lab.contest.contest import Alone, Contest, Ensemble, Search, checked
from gnomon.lab.contest.turn import Known
from gnomon.lab.errors import LabError
from gnomon.lab.results.results import Results
from gnomon.lab.training.compute import step_cost


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """All arms of one seed, and what they left behind."""
    from tiny_brightness import brightness_task

    torch.set_num_threads(1)
    made, task = bench(tmp_path_factory.mktemp("contest")), brightness_task()
    return made, task, {arm: made.run(arm, 0, task) for arm in made.arms}


def lines(made, arm):
    text = (made.place(arm, 0) / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_every_arm_is_tested_and_keeps_its_run_like_any_other(done):
    made, task, results = done
    for arm, result in results.items():
        assert 0 <= result.test_accuracy <= 1, arm
        files = {path.name for path in made.place(arm, 0).iterdir()}
        assert {"config.json", "signature.json", "metrics.jsonl", "result.json"} <= files
        assert repr(made.run(arm, 0, task)) == repr(result), "it is read back"


def test_flops_of_a_search_are_those_of_each_members_own_steps(done):
    made, task, results = done
    first = lines(made, "search")[0]
    torch.manual_seed(0)
    batch = task.train[:16]
    cost = step_cost(network_of(task), task.prepared(batch.inputs), batch.labels)
    assert (first["flops"], first["paper_flops"]) == (6 * cost.full, 6 * cost.papers)
    assert results["search"].step == 6 + 2 * 6
    assert [line["epoch"] for line in lines(made, "search")] == [1, 2, 3]


def test_opponents_get_the_flops_of_the_search_and_not_a_step_more(done):
    made, task, results = done
    known = Known.of(made.place("search", 0))
    assert known.full == results["search"].flops
    batch = task.train[:16]
    for arm, mutations in {"base": (), "largest": known.largest}.items():
        network = network_of(task, mutations=mutations)
        step = step_cost(network, task.prepared(batch.inputs), batch.labels).full
        assert results[arm].flops <= known.full < results[arm].flops + step
    random = Known.of(made.place("random", 0))
    assert 0.5 * known.flops < random.flops <= known.flops
    assert "training FLOPs are spent" in random.ended


def test_the_largest_alone_is_the_largest_member_drawn_anew(done):
    made, _, results = done
    births = json.loads((made.place("search", 0) / "lineage.json").read_text())["births"]
    living = [birth for birth in births if "2" in birth["scores"]]
    most = max(birth["size"]["parameters"] for birth in living)
    assert results["largest"].parameters == most > results["base"].parameters


def test_the_sampled_baseline_is_the_best_of_its_looks_at_the_test_images(done):
    made, _, results = done
    looks = [line["accuracy"] for line in lines(made, "sampled")]
    assert len(looks) == 4
    assert results["sampled"].test_accuracy == max(looks)
    assert results["sampled"].accuracy != results["sampled"].accuracy, "nothing was validated"
    assert made.run("sampled", 0, done[1]).test_accuracy == max(looks)


def test_the_sampled_baseline_looks_at_the_test_images_and_no_others(done, tmp_path):
    """With the opposite labels there it is right where it was wrong."""
    made, task, _ = done
    opposite = replace(task, test=replace(task.test, labels=1 - task.test.labels))
    bench(tmp_path).run("sampled", 0, opposite)
    one, other = (
        [line["accuracy"] for line in lines(b, "sampled")] for b in (made, bench(tmp_path))
    )
    assert [1 - look for look in one] == other


def test_nobody_else_looks_at_the_test_images_before_the_end(tmp_path, task):
    """With other test images everything but the last number is the same."""
    other = replace(task, test=task.test[torch.arange(9)])
    for images, folder in ((task, "one"), (other, "two")):
        for arm in ("search", "base"):
            bench(tmp_path / folder).run(arm, 0, images)
    for arm in ("search", "base"):
        one, two = (lines(bench(tmp_path / folder), arm) for folder in ("one", "two"))
        assert [line["accuracy"] for line in one] == [line["accuracy"] for line in two]


def test_ensembles_are_of_the_members_that_the_search_selected(done, monkeypatch):
    made, task, results = done
    assert isinstance(made.arms["co-evolution"], Search)
    evolution = searching.evolution_of(
        made.arms["co-evolution"], task, 0, budget=searching.Budget(), device=torch.device("cpu")
    )
    evolution.load(made.place("co-evolution", 0) / "checkpoint.safetensors")
    networks = [m.network for m in evolution.selected()]
    size = sum(p.numel() for network in networks for p in network.parameters())
    assert results["average"].parameters == size < results["hierarchical"].parameters
    assert (results["average"].flops, results["average"].step) == (0, 0)
    assert results["hierarchical"].step == 5 and results["hierarchical"].flops > 0
    problem = searching.posed(task, 16)
    average, _ = joining._made(ARMS["average"], evolution, problem, 0)
    right = float(right_of(average, problem).double().mean())
    assert results["average"].accuracy == right


def test_arms_that_answer_to_no_search_are_refused():
    with pytest.raises(LabError, match="'b' cannot follow 'a': no search of that name stands"):
        checked({"b": Ensemble("a", "average"), "a": search()})
    with pytest.raises(LabError, match=r"cannot follow 'base'.*\(search\)"):
        checked({"search": search(), "base": Alone(ARMS["base"].recipe), "x": search(like="base")})


@pytest.mark.parametrize(
    "make",
    [
        lambda: Ensemble("a", "hierarchical"),
        lambda: Ensemble("a", "average", steps=3),
        lambda: Alone(ARMS["base"].recipe, network="largest"),
    ],
)
def test_arms_that_make_no_sense_are_refused(make):
    with pytest.raises(ValueError):
        make()


def test_an_arm_waits_for_its_search(tmp_path, task):
    with pytest.raises(LabError, match="is not finished"):
        bench(tmp_path).run("average", 0, task)
    assert not bench(tmp_path).place("average", 0).exists()


def test_a_search_of_other_settings_is_no_start(tmp_path, task):
    bench(tmp_path).run("co-evolution", 0, task)
    changed = ARMS | {"co-evolution": search(Best(), replace(FEW, steps=7))}
    with pytest.raises(LabError, match=r"other settings \(select, settings\)"):
        bench(tmp_path, changed).run("average", 0, task)


def test_what_a_search_has_found_must_be_readable(tmp_path, task):
    bench(tmp_path).run("search", 0, task)
    (bench(tmp_path).place("search", 0) / "found.json").write_text("{}")
    with pytest.raises(LabError, match=r"found.json' cannot be read.*the search begins anew"):
        bench(tmp_path).run("base", 0, task)


def test_a_search_stands_behind_its_ensembles_and_not_behind_its_opponents(done):
    made, _, results = done
    about = Contest("c", "A contest.", "me", lambda size: ARMS, {}, printed={"search": 0.9})
    found = Results.of(about, made)
    spent = results["co-evolution"].flops
    assert {arm: found.given(arm, 0) for arm in ARMS} == {
        arm: spent if arm in ("hierarchical", "average", "greedy") else 0 for arm in ARMS
    }
    rows = {row.arm: row for row in found.rows()}
    assert rows["sampled"].validation is None and rows["sampled"].test is not None
    assert dict(found.tests())["search"] == [results["search"].test_accuracy]
    sampled = found.differences("search").markdown().splitlines()[2]
    assert sampled.startswith("| sampled | 1 |") and sampled.endswith("| - |"), "never validated"
