"""A search in a folder: it is kept round by round, goes on after a kill, and is drawn."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")
pytest.importorskip("filelock")


from safetensors.torch import load_file
from tiny_search import LONG, TINY, result, rounds, searched

from gnomon.errors import BadCheckpoint
from gnomon.evolution import AnyModel, NoMutation, OverBudget, Settings
from gnomon.lab.data.tasks import load
from gnomon.lab.errors import BadFolder, LabError
from gnomon.lab.search import (
    Asked,
    Folder,
    best,
    ensemble,
    export_file,
    population,
    usual,
    write_page,
)
from gnomon.lab.search.lanes import ancestry, lanes
from gnomon.lab.search.spaces import space_of, stages


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished search."""
    path = tmp_path_factory.mktemp("whole") / "search"
    searched(path)
    return path


def same_end(a, b):
    one, two = load_file(a / "checkpoint.safetensors"), load_file(b / "checkpoint.safetensors")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert rounds(a) == rounds(b) and result(a) == result(b)
    assert (a / "lineage.json").read_text() == (b / "lineage.json").read_text()


def test_a_search_leaves_its_files_behind(whole):
    names = {path.name for path in whole.iterdir()}
    assert names >= {
        "config.json", "signature.json", "metrics.jsonl", "checkpoint.safetensors",
        "lineage.json", "top.safetensors", "result.json",
    }  # fmt: skip
    assert not any(name.endswith((".part", ".tmp")) for name in names)
    history = Folder(whole).history()
    assert [told.round for told in history] == [0, 1, 2, 3]
    assert [len(told.rows) for told in history] == [1, 4, 4, 4]
    for told in history[1:]:
        assert sorted(row.selected for row in told.rows if row.selected) == [1, 2]
        assert told.held < sum(row.parameters for row in told.rows)
        assert sum(row.steps for row in told.rows) == 8
    births = json.loads((whole / "lineage.json").read_text())["births"]
    assert [birth["id"] for birth in births] == [*range(1 + 3 + 2 + 2)]
    found = result(whole)
    assert [row["name"].split()[0].strip(",") for row in found["accuracies"]] == [
        "best", "average", "greedy", "hierarchical"
    ]  # fmt: skip
    assert all(0 <= row["test"] <= 1 and row["flops"] > 0 for row in found["accuracies"])
    best_row, _, greedy_row, _ = found["accuracies"]
    assert greedy_row["validation"] >= best_row["validation"] == history[-1].best.accuracy


class Stop(Exception):
    pass


@pytest.mark.parametrize("after", [0, 2, 3])
def test_a_search_that_is_stopped_after_a_round_ends_the_same(after, whole, tmp_path):
    def stop(news):
        if news.round == after:
            raise Stop

    with pytest.raises(Stop):
        searched(tmp_path, tell=stop)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"event": "round", "round": 99')  # a line that a kill has cut
    searched(tmp_path)
    same_end(tmp_path, whole)


def test_a_kill_between_the_line_and_the_checkpoint_leaves_no_line_twice(
    whole, tmp_path, monkeypatch
):
    from gnomon.evolution import Evolution

    def dies(self, path):
        if self.round == 3:
            raise Stop
        save(self, path)

    save = Evolution.save
    monkeypatch.setattr(Evolution, "save", dies)
    with pytest.raises(Stop):
        searched(tmp_path)
    assert len(rounds(tmp_path)) == 3
    monkeypatch.undo()
    searched(tmp_path)
    same_end(tmp_path, whole)


def start(path):
    source = str(Path(__file__).parents[2] / "src")
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("tiny_search.py")), str(path)],
        env={**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"},
    )


def killed(path, until):
    """Start the long search, and kill it once `until()`."""
    child, deadline = start(path), time.monotonic() + 120
    while child.poll() is None and not until() and time.monotonic() < deadline:
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()


def lines(path):
    file = path / "metrics.jsonl"
    return file.read_text().count("\n") if file.exists() else 0


def test_a_search_that_is_killed_goes_on_to_the_same_population(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    killed(b, lambda: lines(b) >= 3)
    assert lines(b) >= 3 and not (b / "result.json").exists()
    searched(a, LONG)
    searched(b, LONG)
    same_end(a, b)


@pytest.mark.slow
def test_a_search_that_is_killed_again_and_again_ends_the_same(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    draw = torch.Generator().manual_seed(0)
    for _ in range(12):
        moment = time.monotonic() + 3 + 3 * float(torch.rand(1, generator=draw))
        killed(b, lambda until=moment: time.monotonic() > until)
    searched(a, LONG)
    searched(b, LONG)
    same_end(a, b)


def test_a_finished_search_is_read_back_and_more_rounds_go_on(whole, tmp_path):
    def never(news):
        raise AssertionError("it was done")

    before = (whole / "checkpoint.safetensors").read_bytes()
    assert searched(whole, tell=never) == Folder(whole).result()
    assert (whole / "checkpoint.safetensors").read_bytes() == before
    searched(tmp_path / "short", TINY.changed(rounds=1))
    told = []
    searched(tmp_path / "short", TINY, told.append)
    assert [news.round for news in told] == [2, 3]
    same_end(tmp_path / "short", whole)


def test_a_folder_in_use_and_other_settings_are_refused(whole, tmp_path):
    before = {path.name: path.read_bytes() for path in whole.iterdir()}
    with Folder(whole).alone(), pytest.raises(BadFolder, match="in use by another search"):
        searched(whole)
    for change, said in (
        ({"seed": 1}, "seed"),
        ({"space": "any"}, "space"),
        ({"keep": 1}, "settings.keep"),
        ({"lr": 0.1}, "lr"),
    ):
        with pytest.raises(BadFolder, match=rf"other settings \({said}\)"):
            searched(whole, TINY.changed(**change))
    assert {path.name: path.read_bytes() for path in whole.iterdir()} == before
    with pytest.raises(BadFolder, match="holds a run already"):
        Folder.new(whole, "x")
    with pytest.raises(BadFolder, match="no search in"):
        Folder(tmp_path / "nowhere").asked()
    (tmp_path / "file").write_text("")
    with pytest.raises(BadFolder, match="cannot be written to"):
        searched(tmp_path / "file" / "below")


def test_a_checkpoint_of_another_space_is_refused(whole, tmp_path):
    other = TINY.changed(space="any")
    searched(tmp_path, other.changed(rounds=0))
    (tmp_path / "checkpoint.safetensors").write_bytes(
        (whole / "checkpoint.safetensors").read_bytes()
    )
    with pytest.raises(BadCheckpoint, match="of another search: its space"):
        searched(tmp_path, other)


def test_a_missing_line_of_the_metrics_is_noticed(tmp_path):
    searched(tmp_path, TINY.changed(rounds=1))
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(BadFolder, match="0 of 2 rounds"):
        searched(tmp_path, TINY)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"tau": 0.999}, NoMutation),
        ({"parameters": 100}, OverBudget),
        ({"flops": 100}, OverBudget),
        ({"memory": 100}, OverBudget),
        ({"parameters": 5086}, NoMutation),
        ({"batch": 5000}, LabError),
        ({"data": "nowhere"}, LabError),
        ({"space": "any", "model": "nowhere.py:net"}, LabError),
    ],
)
def test_a_search_that_cannot_begin_leaves_no_folder(change, kind, tmp_path):
    with pytest.raises(kind):
        searched(tmp_path / "new", TINY.changed(**change))
    assert not (tmp_path / "new").exists()


def test_numbers_that_make_no_sense_are_refused():
    for change in (
        {"keep": 5}, {"tau": 1.0}, {"space": "all"}, {"select": "worst"}, {"batch": 1},
        {"lr": 0.0}, {"lr": float("nan")}, {"model": "x.py:f"}, {"parameters": 0},
    ):  # fmt: skip
        with pytest.raises(ValueError):
            TINY.changed(**change)
    assert TINY.changed(rounds=None, seed=None) == TINY
    assert Asked.from_json(json.loads(json.dumps(TINY.to_json()))) == TINY
    with pytest.raises(LabError, match="config cannot be read"):
        Asked.from_json({"data": "digits"})
    assert usual("cifar10").settings == Settings() and usual("digits").settings.size == 8


def test_spaces_fit_the_images():
    task = load("digits")
    space = stages(task)
    assert (space.inputs, space.size, space.outputs) == (1, 8, (8, 16, 32))
    shapes = {28: (16, 32), 32: (16, 32, 64), 6: (8,)}
    for side, outputs in shapes.items():
        images = torch.zeros(4, 1, side, side, dtype=torch.uint8)
        made = stages(replace(task, train=replace(task.train, inputs=images)))
        assert made.outputs == outputs and made.base() is not None
    for size in ((7, 7), (8, 6)):
        images = torch.zeros(4, 1, *size, dtype=torch.uint8)
        with pytest.raises(LabError, match="square images of an even side"):
            stages(replace(task, train=replace(task.train, inputs=images)))


def test_a_search_around_a_model_of_the_users_own(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from torch import nn\n"
        "def net(task):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(),\n"
        "                         nn.Linear(8, task.classes))\n"
        "def bad(task):\n    return 1 / 0\nname = 3\n"
    )
    asked = TINY.changed(space="any", model=f"{file}:net", rounds=1)
    assert isinstance(space_of("any", asked.model, load("digits")), AnyModel)
    searched(tmp_path / "run", asked)
    history = Folder(tmp_path / "run").history()
    assert set(history[0].rows[0].widths.values()) == {8}, "the head aside"
    assert best(tmp_path / "run")(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    write_page(Folder(tmp_path / "run"))
    for name, said in (("nothing", "has no attribute"), ("name", "is no function")):
        with pytest.raises(LabError, match=said):
            searched(tmp_path / "new", asked.changed(model=f"{file}:{name}"))
    file.write_text("1 / 0")
    with pytest.raises(LabError, match="ZeroDivisionError"):
        searched(tmp_path / "new", asked)


def test_what_is_exported_runs_alone_and_says_the_same(whole, tmp_path):
    task = load("digits")
    images, normal = task.test.inputs[:5], task.prepared(task.test.inputs[:5])
    for what, network in (("best", best(whole)), ("ensemble", ensemble(whole))):
        target = tmp_path / "below" / f"{what}.pt2"
        export_file(what, whole, target)
        alone = torch.export.load(target).module()
        with torch.no_grad():
            for rows in (5, 1):
                expected = network(normal[:rows])
                assert torch.allclose(alone(images[:rows]), expected, atol=1e-5)
        found = {row["name"].split()[0].strip(","): row for row in result(whole)["accuracies"]}
        with torch.no_grad():
            right = alone(task.test.inputs).argmax(1) == task.test.labels
        name = "best" if what == "best" else "hierarchical"
        assert float(right.double().mean()) == pytest.approx(found[name]["test"], abs=1e-9)
    assert sorted(path.name for path in (tmp_path / "below").iterdir()) == [
        "best.pt2", "ensemble.pt2"
    ]  # fmt: skip


def test_what_cannot_be_exported_says_why(whole, tmp_path):
    with pytest.raises(LabError, match="one of best, ensemble"):
        export_file("worst", whole, tmp_path / "x.pt2")
    with pytest.raises(LabError, match=r"must end in \.pt2"):
        export_file("best", whole, tmp_path / "x.onnx")
    (tmp_path / "file").write_text("")
    with pytest.raises(BadFolder, match="cannot be written"):
        export_file("best", whole, tmp_path / "file" / "x.pt2")
    searched(tmp_path / "open", TINY.changed(rounds=0))
    (tmp_path / "open" / "result.json").unlink()
    with pytest.raises(LabError, match="not finished"):
        export_file("best", tmp_path / "open", tmp_path / "x.pt2")


def test_a_page_with_pictures_also_of_an_unfinished_search(whole, tmp_path):
    page = write_page(Folder(whole)).read_text()
    for said in (
        "hierarchical",
        "lineage.png",
        "front.png",
        "sizes.png",
        "|data:digits|",
        "| id |",
    ):
        assert said in page
    assert "Not finished" not in page
    for name in ("lineage", "front", "sizes"):
        assert (whole / f"{name}.png").stat().st_size > 10_000
        assert (whole / f"{name}.svg").exists()
    first = (whole / "lineage.svg").read_bytes()
    write_page(Folder(whole))
    assert (whole / "lineage.svg").read_bytes() == first

    def stop(news):
        raise Stop

    with pytest.raises(Stop):
        searched(tmp_path, tell=stop)
    assert "**Not finished:** 0 of 3 rounds" in write_page(Folder(tmp_path)).read_text()
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(LabError, match="nothing to draw"):
        write_page(Folder(tmp_path))


def test_members_stay_in_their_lanes_and_children_come_near(whole):
    history = Folder(whole).history()
    found = lanes(history)
    for before, now in pairwise(found):
        assert all(now[member] == before[member] for member in now.keys() & before.keys())
    for told, now in zip(history, found, strict=True):
        assert now.keys() == {row.id for row in told.rows}
        assert len(set(now.values())) == len(now) and max(now.values()) < 4
    last = history[-1].best.key
    path = ancestry(history, last)
    assert path[0] == (0, 0) and path[-1] == last
    shown = population(history[-1])
    assert len(shown.rows) == 4 and "each shared one counted once" in shown.note
