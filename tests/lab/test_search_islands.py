"""Islands, seeds and pools of a search in a folder, and on the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("typer")
pytest.importorskip("lightning")
pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")
pytest.importorskip("filelock")

from safetensors.torch import load_file
from tiny_search import TINY, result, rounds, searched

import gnomon
from gnomon.evolution import Budget
from gnomon.lab.errors import BadFolder
from gnomon.lab.search import (
    Asked,
    Folder,
    best,
    ensemble,
    pool_of,
    population,
    run,
    run_all,
    write_page,
)
from gnomon.lab.search.asked import shared_among
from gnomon.lab.search.lanes import ancestry, bands
from test_cli import command

ISLANDS = TINY.changed(islands=2, exchange=1, size=3)
SHORT = "search --steps 4 --members 3 --keep 2 --rounds 1 --batch 16 --top-steps 4 --device cpu"


@pytest.fixture(scope="module")
def islands(tmp_path_factory):
    """A finished search on two islands."""
    path = tmp_path_factory.mktemp("islands") / "search"
    searched(path, ISLANDS)
    return path


def same_end(a, b):
    one, two = load_file(a / "checkpoint.safetensors"), load_file(b / "checkpoint.safetensors")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert rounds(a) == rounds(b) and result(a) == result(b)
    assert (a / "lineage.json").read_text() == (b / "lineage.json").read_text()


def test_islands_leave_a_line_per_round_with_all_members(islands):
    history = Folder(islands).history()
    assert [told.round for told in history] == [0, 1, 2, 3]
    assert [len(told.rows) for told in history] == [2, 6, 6, 6]
    assert [{row.island for row in told.rows} for told in history] == [{1, 2}] * 4
    for told in history[1:]:
        for island in told.islands:
            picked = sorted(row.selected for row in island.rows if row.selected)
            assert picked in ([1], [2], [1, 2]), "one of two may be somebody who comes"
    came = [row for told in history for row in told.rows if row.origin]
    assert came and all(row.origin[0] != row.island and row.parent is None for row in came)
    assert all(f"from {row.origin[0]}.{row.origin[1]}" == row.mutation for row in came)
    found = result(islands)
    assert found["best"].split(".")[0] in "12" and len(found["selected"]) == 2
    assert found["spent"]["steps"] == 2 * 4 * 8
    lineages = json.loads((islands / "lineage.json").read_text())["islands"]
    assert len(lineages) == 2 and any(b["origin"] for one in lineages for b in one["births"])


def test_the_members_that_a_round_calls_selected_go_on(islands):
    for told, after in zip(
        Folder(islands).history()[1:-1], Folder(islands).history()[2:], strict=True
    ):
        living = {row.key for row in after.rows}
        assert {row.key for row in told.rows if row.selected} <= living
        stay = {row.key for row in told.rows} & living
        assert stay == {row.key for row in told.rows if row.selected}


class Stop(Exception):
    pass


@pytest.mark.parametrize("after", [1, 3])
def test_islands_that_are_stopped_end_the_same(after, islands, tmp_path):
    def stop(news):
        if news.round == after:
            raise Stop

    with pytest.raises(Stop):
        searched(tmp_path, ISLANDS, stop)
    searched(tmp_path, ISLANDS)
    same_end(tmp_path, islands)


def test_more_rounds_end_as_if_they_had_been_asked_for_at_once(islands, tmp_path):
    searched(tmp_path, ISLANDS.changed(rounds=2))
    searched(tmp_path, ISLANDS)
    ends = [load_file(place / "checkpoint.safetensors") for place in (tmp_path, islands)]
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_other_islands_in_the_folder_are_refused(islands):
    for change, said in (({"islands": 3}, "islands"), ({"exchange": 2}, "exchange")):
        with pytest.raises(BadFolder, match=rf"other settings \({said}\)"):
            searched(islands, ISLANDS.changed(**change))


def test_the_page_of_islands(islands):
    page = write_page(Folder(islands)).read_text()
    for said in ("2.14 is member 14", "|islands:2|exchange:1", "| from ", "lineage.png"):
        assert said in page
    history = Folder(islands).history()
    places, found = bands(history)
    assert found[0][0] == 0 and found[1][0] == found[0][1] + 2
    for told, place in zip(history, places, strict=True):
        assert place.keys() == {row.key for row in told.rows}
        assert len(set(place.values())) == len(place)
        assert all(found[k[0] - 1][0] <= lane <= found[k[0] - 1][1] for k, lane in place.items())
    path = ancestry(history, history[-1].best.key)
    assert path[0][1] == 0 and path[-1] == history[-1].best.key
    assert population(history[-1]).rows[0][0] == history[-1].best.name
    assert best(islands)(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    assert ensemble(islands)(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_budgets_of_the_whole_search_are_divided():
    whole = Budget(parameters=9, flops=9, memory=9, training_flops=8, seconds=6.0)
    assert shared_among(whole, 2) == Budget(9, 9, 4, 4, 3.0)
    assert shared_among(Budget(), 2) == Budget()


def test_numbers_of_islands_that_make_no_sense_are_refused():
    for change in ({"islands": 0}, {"exchange": 0}, {"islands": 2, "size": 1, "keep": 1}):
        with pytest.raises(ValueError):
            TINY.changed(**change)
    assert Asked.from_json(json.loads(json.dumps(ISLANDS.to_json()))) == ISLANDS
    with pytest.raises(ValueError, match="'here' has none"):
        pool_of("here", "host:1")


def test_seeds_are_the_searches_that_each_would_be_alone(tmp_path):
    asked = TINY.changed(rounds=1)
    both = [(asked.changed(seed=seed), Folder(tmp_path / f"seed{seed}")) for seed in (0, 3)]
    told = []
    results = run_all(both, tell=lambda whose, news: told.append((whose.seed, news.round)))
    assert told == [(0, 0), (3, 0), (0, 1), (3, 1)]
    run(asked.changed(seed=3), Folder(tmp_path / "alone"))
    same_end(tmp_path / "alone", tmp_path / "seed3")
    assert results[1] == Folder(tmp_path / "seed3").result()
    assert [f.path.name for f in Folder.of_seeds(tmp_path)] == ["seed0", "seed3"]
    assert Folder(tmp_path).taken


def test_seeds_and_islands_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [*SHORT.split(), "--islands", "2", "--seeds", "1,2", "--out", "here"]
    code, out, err = command(monkeypatch, capsys, *words)
    assert (code, err) == (0, "")
    for said in ("seed 1: [0/1] best", "seed 2: [1/1] best", "2 islands of 3 members"):
        assert said in out
    assert "here/seed1/search.md" in out and "here/seed2/search.md" in out
    code, out, err = command(monkeypatch, capsys, "search", "--resume", "here", "--rounds", "2")
    assert (code, err) == (0, "") and "seed 2: [2/2] best" in out and "[1/" not in out
    code, _, err = command(monkeypatch, capsys, *words)
    assert code == 2 and "holds a run already" in err


WRONG = [
    (["--pool", "magic"], 2, "here, ray, torchrun"),
    (["--address", "host:1"], 2, "the pool 'here' has none"),
    (["--pool", "torchrun"], 1, "Start it with torchrun --nproc-per-node N"),
    (["--seeds", "0-1", "--seed", "1"], 2, "go with neither --seed"),
    (["--seeds", "x"], 2, "names no seeds"),
    (["--islands", "0"], 2, "--islands"),
    (["--islands", "2", "--members", "1", "--keep", "1"], 2, "size must be above 1"),
]


@pytest.mark.parametrize(("words", "code", "said"), WRONG, ids=[" ".join(w[0]) for w in WRONG])
def test_a_bad_request_is_one_message(words, code, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RANK", raising=False)
    got, out, err = command(monkeypatch, capsys, *SHORT.split(), *words)
    assert (got, said in " ".join(err.split())) == (code, True), err
    assert "Traceback" not in out + err and not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning")
def test_an_address_that_does_not_answer_leaves_the_folder_as_it_was(tmp_path, monkeypatch, capsys):
    pytest.importorskip("ray", reason="the search extra is not installed")
    searched(tmp_path / "s", TINY.changed(rounds=0))
    before = {p.name: p.read_bytes() for p in (tmp_path / "s").iterdir()}
    words = ["search", "--resume", str(tmp_path / "s"), "--pool", "ray", "--rounds", "1"]
    code, _, err = command(monkeypatch, capsys, *words, "--address", "127.0.0.1:1")
    assert code == 1 and "nothing answers at '127.0.0.1:1'" in err
    assert {p.name: p.read_bytes() for p in (tmp_path / "s").iterdir()} == before


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning")
def test_a_model_of_the_users_own_is_searched_around_on_ray(tmp_path):
    pytest.importorskip("ray", reason="the search extra is not installed")
    file = tmp_path / "mine.py"
    file.write_text(
        "from torch import nn\n"
        "class Mine(nn.Sequential):\n    pass\n"
        "def net(task):\n"
        "    return Mine(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, task.classes))\n"
    )
    asked = TINY.changed(space="any", model=f"{file}:net", rounds=1, size=3)
    with pool_of("ray") as pool:
        run(asked, Folder(tmp_path / "ray"), pool=pool)
    run(asked, Folder(tmp_path / "here"))
    same_end(tmp_path / "ray", tmp_path / "here")


def test_two_processes_of_torchrun_are_one_search(tmp_path):
    words = [*SHORT.split(), "--pool", "torchrun", "--out", str(tmp_path / "s")]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend",
         "c10d", "--rdzv-endpoint", "localhost:0", "-m", "gnomon", *words],
        capture_output=True, text=True, timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1",
             "PYTHONPATH": str(Path(gnomon.__file__).parents[1])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("[1/1] best") == 1 and done.stdout.count("search.md") == 1
    assert [told.round for told in Folder(tmp_path / "s").history()] == [0, 1]
    asked = Folder(tmp_path / "s").asked()
    run(asked.changed(rounds=2), Folder(tmp_path / "s"))
    assert len(Folder(tmp_path / "s").history()) == 3, "another pool goes on"
