"""Contests that are stopped go on to the same bits."""

import pytest

pytest.importorskip("lightning")
pytest.importorskip("filelock")

from safetensors.torch import load_file
from tiny_contest import bench
from tiny_runs import lines, result

from gnomon.evolution import Evolution
from gnomon.lab.errors import BadFolder
from gnomon.lab.running.lock import alone

NEEDED = {
    "search": (),
    "random": ("search",),
    "hierarchical": ("co-evolution",),
    "largest": ("search",),
    "sampled": (),
}


class Stop(Exception):
    """Not what any code catches."""


def stop_after(count):
    """A listener that ends everything at the so-many-th news."""
    heard = []

    def tell(news):
        heard.append(news)
        if len(heard) == count:
            raise Stop

    return tell


def tensors(place):
    return {name: t.tolist() for name, t in load_file(place / "checkpoint.safetensors").items()}


@pytest.mark.parametrize("arm", NEEDED)
def test_an_arm_that_is_stopped_ends_as_if_it_had_not_been(arm, tmp_path, task):
    whole, stopped = bench(tmp_path / "whole"), bench(tmp_path / "stopped")
    for made in (whole, stopped):
        for needed in NEEDED[arm]:
            made.run(needed, 0, task)
    whole.run(arm, 0, task)
    with pytest.raises(Stop):
        stopped.run(arm, 0, task, tell=stop_after(1 if arm == "hierarchical" else 2))
    assert not (stopped.place(arm, 0) / "result.json").exists()
    done, heard = lines(stopped.place(arm, 0))[-1]["epoch"], []
    stopped.run(arm, 0, task, tell=heard.append)
    first = 1 if arm == "hierarchical" else done + 1
    assert heard[0].point.epoch == first, "what was done is not done again"
    one, other = whole.place(arm, 0), stopped.place(arm, 0)
    assert lines(one) == lines(other)
    assert result(one) == result(other)
    if (one / "checkpoint.safetensors").exists():
        assert tensors(one) == tensors(other)


def test_a_round_that_was_written_down_but_not_saved_is_done_again(tmp_path, task, monkeypatch):
    whole, stopped = bench(tmp_path / "whole"), bench(tmp_path / "stopped")
    whole.run("search", 0, task)
    save = Evolution.save

    def broken(evolution, path):
        if evolution.round == 2:
            raise Stop
        save(evolution, path)

    monkeypatch.setattr(Evolution, "save", broken)
    with pytest.raises(Stop):
        stopped.run("search", 0, task)
    monkeypatch.setattr(Evolution, "save", save)
    assert len(lines(stopped.place("search", 0))) == 2, "one more than was saved"
    stopped.run("search", 0, task)
    assert lines(whole.place("search", 0)) == lines(stopped.place("search", 0))


def test_a_best_test_that_was_not_written_is_written_later(tmp_path, task, monkeypatch):
    from gnomon.lab.contest import alone as module

    monkeypatch.setattr(module, "_best_of_its_tests", lambda turn: (_ for _ in ()).throw(Stop))
    with pytest.raises(Stop):
        bench(tmp_path).run("sampled", 0, task)
    assert result(bench(tmp_path).place("sampled", 0))["test_accuracy"] is None
    monkeypatch.undo()
    assert bench(tmp_path).run("sampled", 0, task).test_accuracy is not None


def test_a_folder_is_for_one_run_at_a_time(tmp_path, task):
    made = bench(tmp_path)
    with alone(made.place("search", 0), "run"), pytest.raises(BadFolder, match="in use"):
        made.run("search", 0, task)
