"""A search that was stopped goes on as if it had not been."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_search import ADAM, IMAGES, SHORT, SPACES, everything, evolution, problem, same

from gnomon.errors import BadCheckpoint
from gnomon.evolution import (
    Budget,
    CoEvolution,
    SearchError,
    Tournament,
    WidenStage,
    saving,
    search,
)
from gnomon.evolution.population.member import distinct


@pytest.mark.parametrize(("name", "stop"), [("images", 1), ("signals", 2), ("vectors", 3)])
def test_a_search_that_is_stopped_between_rounds_ends_the_same(tmp_path, name, stop):
    """Without recalibration, which would hide statistics that are not those of before."""
    space, path = SPACES[name], tmp_path / "search.safetensors"
    task = problem(space, recalibration=0)
    whole = evolution(space, select=Tournament())
    list(search(whole, task))
    first = evolution(space, select=Tournament())
    for _, _round in zip(range(stop), search(first, task, path=path), strict=False):
        pass
    del first
    second = evolution(space, select=Tournament())
    second.load(path)
    assert second.round == stop
    list(search(second, task, path=path))
    assert same(everything(whole), everything(second))
    a, b = (json.loads(run.state_dict()["meta"]) for run in (whole, second))
    assert a["spent"].pop("seconds") and b["spent"].pop("seconds")
    assert a == b


def test_a_round_that_was_stopped_in_the_middle_is_done_again(tmp_path):
    path = tmp_path / "search.safetensors"
    whole = evolution()
    list(search(whole, problem()))

    class Stop(Exception):
        pass

    def failing_after(count):
        calls = []

        def batch(generator):
            calls.append(1)
            if len(calls) > count:
                raise Stop
            return problem().batch(generator)

        return replace(problem(), batch=batch)

    run = evolution()
    run.save(path)
    for count in (3, 9, 14, 25):  # in training and in recalibration
        run = evolution()
        run.load(path)
        with pytest.raises(Stop):
            list(search(run, failing_after(count), path=path))
    run = evolution()
    run.load(path)
    list(search(run, problem(), path=path))
    assert same(everything(whole), everything(run))


def test_shared_tensors_are_stored_once(tmp_path):
    path = tmp_path / "search.safetensors"
    run = evolution()
    list(search(run, problem(), path=path))
    stored = load_file(path)
    names = [name for name in stored if name.startswith("parameter|")]
    assert len(names) == len(distinct(run.members))
    assert len(names) < sum(len(m.parameters) for m in run.members)
    assert sum(stored[n].numel() for n in names) == sum(
        p.numel() for p in distinct(run.members).values()
    )


def test_what_was_loaded_is_shared_as_before(tmp_path):
    path = tmp_path / "search.safetensors"
    run = evolution()
    list(search(run, problem(), path=path))
    again = evolution()
    again.load(path)
    for a, b in zip(run.members, again.members, strict=True):
        assert (a.keys, a.own, a.size, a.score) == (b.keys, b.own, b.size, b.score)
        assert a.factor == b.factor and a.mutation == b.mutation
    held = [p for m in again.members for p in m.parameters.values()]
    assert len({id(p) for p in held}) == len(distinct(again.members))
    assert {id(p) for p in again.optimizer.state} <= {id(p) for p in held}


def test_saving_leaves_no_other_file_and_the_old_one_whole(tmp_path, monkeypatch):
    path = tmp_path / "search.safetensors"
    run = evolution()
    run.save(path)
    before = path.read_bytes()

    def full(*args, **kwargs):
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(BadCheckpoint, match="no space left"):
        run.save(path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]


def test_an_open_round_is_not_saved(tmp_path):
    run = evolution()
    run.ask()
    with pytest.raises(SearchError, match="before tell"):
        run.save(tmp_path / "x")


def test_more_rounds_and_another_budget_go_on(tmp_path):
    path = tmp_path / "search.safetensors"
    list(search(evolution(), problem(), path=path))
    longer = evolution(settings=replace(SHORT, rounds=4), budget=Budget(seconds=1e6))
    longer.load(path)
    assert not longer.done and len(list(search(longer, problem()))) == 1


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"space": replace(IMAGES, features=7)}, "space"),
        ({"space": replace(IMAGES, mutations=(WidenStage,))}, "space"),
        ({"seed": 1}, "seed"),
        ({"select": CoEvolution()}, "selection"),
        ({"settings": replace(SHORT, keep=1)}, "settings"),
        ({"optimizer": lambda p: torch.optim.SGD(p, lr=0.1)}, "optimizer"),
    ],
)
def test_a_checkpoint_of_another_search_is_refused_and_nothing_is_lost(tmp_path, other, what):
    path = tmp_path / "search.safetensors"
    list(search(evolution(), problem(), path=path))
    run = evolution(**other)
    before, members = everything(run), run.members
    with pytest.raises(BadCheckpoint, match=f"of another search: its {what}"):
        run.load(path)
    assert same(everything(run), before) and run.members is members and run.round == 0


def damaged(path, change):
    """Rewrite a checkpoint with its text or its tensors changed."""
    state = saving.read(path)
    meta = json.loads(state["meta"])
    change(meta, state["tensors"])
    save_file(state["tensors"], path, metadata={"gnomon.evolution": json.dumps(meta)})


@pytest.mark.parametrize(
    "change",
    [
        lambda m, t: m.pop("lineage"),
        lambda m, t: m.update(format=0),
        lambda m, t: m["members"].append([99, 0.5]),
        lambda m, t: m["lineage"][1].update(mutation={"kind": "Explode"}),
        lambda m, t: m["lineage"][1].update(mutation={"kind": "WidenStage", "wrong": 1}),
        lambda m, t: m["lineage"][1].update(
            mutation={"kind": "WidenStage", "stage": 9, "kernel": 1}
        ),
        lambda m, t: m["lineage"][1].update(parent=7),
        lambda m, t: m.update(lineage=3),
        lambda m, t: m.update(search={}),
        lambda m, t: t.pop(next(n for n in t if n.startswith("parameter|"))),
        lambda m, t: t.update({"parameter|9.x": torch.zeros(1)}),
        lambda m, t: t.update({"optimizer|9.x|exp_avg": torch.zeros(1)}),
        lambda m, t: t.update({n: t[n].float() for n in list(t) if n.endswith("head.bias")}),
    ],
)
def test_a_damaged_checkpoint_is_refused_and_nothing_is_lost(tmp_path, change):
    path = tmp_path / "search.safetensors"
    list(search(evolution(), problem(), path=path))
    damaged(path, change)
    run = evolution()
    before = everything(run)
    with pytest.raises(BadCheckpoint):
        run.load(path)
    assert same(everything(run), before) and len(run.lineage) == 1


def test_files_that_are_no_searches_are_refused(tmp_path):
    path = tmp_path / "file"
    run = evolution()
    with pytest.raises(BadCheckpoint, match="not a file"):
        run.load(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(BadCheckpoint, match="not a whole"):
        run.load(path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(BadCheckpoint, match="not written by a search"):
        run.load(path)


def test_the_state_of_an_optimizer_with_numbers_comes_back():
    """ASGD and Rprop keep some of it outside of tensors; SGD without momentum keeps None."""
    for make in (lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9), ADAM):
        run = evolution(optimizer=make)
        list(search(run, problem()))
        again = evolution(optimizer=make)
        again.load_state_dict(run.state_dict())
        assert same(everything(run), everything(again))


def killed(path: Path, seconds: float) -> None:
    """Start the search of `killed_search.py` and kill it after a while."""
    script = Path(__file__).with_name("killed_search.py")
    source = str(Path(__file__).parents[2] / "src")
    child = subprocess.Popen(
        [sys.executable, str(script), str(path)], env={**os.environ, "PYTHONPATH": source}
    )
    try:
        child.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        child.send_signal(signal.SIGKILL)
    child.wait()


@pytest.mark.slow
def test_a_search_that_is_killed_thirty_times_ends_the_same(tmp_path):
    from killed_search import made, task

    path, draw = tmp_path / "search.safetensors", torch.Generator().manual_seed(0)
    whole = made()
    list(search(whole, task()))
    for _ in range(30):
        killed(path, 3.0 + 2.0 * float(torch.rand(1, generator=draw)))
    killed(path, 600.0)
    run = made()
    run.load(path)
    assert run.done
    assert same(everything(whole), everything(run))
