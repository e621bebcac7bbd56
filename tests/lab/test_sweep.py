"""The search: repeatable, resumable, blind to the test split; and it says what to write down."""

import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("tensorboard")
pytest.importorskip("optuna")

import optuna
from filelock import FileLock
from optuna.trial import TrialState
from tiny_experiment import experiment_file, inline

from gnomon import DivideRate, Widen
from gnomon.lab.data import tasks
from gnomon.lab.errors import BadFolder, LabError
from gnomon.lab.experiment import Arm, Start
from gnomon.lab.running.jobs import train
from gnomon.lab.running.orders import Order
from gnomon.lab.sweep import Settings, Sweep, fate, line, ranked, search, table, words, write_page
from gnomon.lab.training.machine import Machine
from gnomon.lab.training.recipe import Recipe
from gnomon.schedule import At


@pytest.fixture(autouse=True)
def _quiet(task, monkeypatch):
    monkeypatch.setattr(tasks, "load", lambda data, **settings: task)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


GROWING = """
ARMS = arms
def more(size):
    growing = Arm(recipe(size), small, schedule=At(Widen("hidden", by=2), epoch=1))
    return ARMS(size) | {"growing": growing}
EXPERIMENT = experiment(more)
"""


def sweep(folder, arm):
    asked = Order(
        experiment_file(folder, text=GROWING), "quick", (0,), folder / "s", machine=Machine("cpu")
    )
    return Sweep(asked, arm)


class Silent:
    def __getattr__(self, name):
        return lambda *_: None


def searched(wanted, trials):
    train(wanted.order, wanted.starts, Silent(), jobs=1, crew=inline) if wanted.starts else None
    return search(wanted, trials, lambda *_: None, jobs=1, crew=inline)


SMALL, GROWS = Recipe(epochs=2, lr=1e-2), At(Widen("hidden", by=2), epoch=1)


def test_an_arm_from_scratch_has_no_drop(tmp_path):
    arm = Arm(SMALL, lambda task: None)
    asked = Settings.asked(optuna.trial.FixedTrial({"lr": 1e-3, "weight_decay": 1e-4}), arm)
    made = asked.of(arm, {})
    assert (made.recipe.lr, made.recipe.weight_decay, made.tests) == (1e-3, 1e-4, False)


def test_the_drop_divides_the_rate_of_the_start_and_that_at_a_growth(tmp_path):
    trial = optuna.trial.FixedTrial({"lr": 1e-3, "weight_decay": 1e-4, "drop": 4.0})
    student = Arm(SMALL, start=Start("teacher"))
    teacher = Arm(SMALL, lambda task: None)
    made = Settings.asked(trial, student).of(student, {"teacher": teacher})
    assert (made.recipe.lr, made.after) == (1e-2 / 4, ())
    growing = Arm(SMALL, lambda task: None, schedule=GROWS, after=(DivideRate(9),))
    made = Settings.asked(trial, growing).of(growing, {})
    assert (made.recipe.lr, made.after) == (1e-3, (DivideRate(4.0),))


def test_a_search_goes_on_where_it_was_stopped_and_repeats_itself(tmp_path):
    whole = searched(sweep(tmp_path / "whole", "R2R"), 4)
    parts = sweep(tmp_path / "parts", "R2R")
    searched(parts, 2)
    again = searched(parts, 4)
    assert [t.params for t in again] == [t.params for t in whole]
    assert [t.value for t in again] == [t.value for t in whole]
    assert searched(parts, 3) == again, "enough trials are over"
    runs = {path.name for path in (tmp_path / "parts" / "s").iterdir() if path.is_dir()}
    assert runs == {"teacher", *(f"R2R-trial-{i}" for i in range(4))}
    result = (tmp_path / "parts" / "s" / "R2R-trial-0" / "seed-0" / "result.json").read_text()
    assert '"test_accuracy": null' in result


def test_an_interrupted_trial_is_asked_for_again(tmp_path):
    wanted = sweep(tmp_path, "scratch")
    wanted.order.folder.mkdir()
    stopped = wanted.study().ask()
    stopped.suggest_float("lr", 1e-4, 3e-2, log=True)
    found = searched(wanted, 1)
    assert [t.number for t in found] == [1]
    assert found[0].params["lr"] == stopped.params["lr"]


def test_a_trial_that_diverges_has_failed_and_the_others_go_on(tmp_path, monkeypatch):
    wanted = sweep(tmp_path, "scratch")
    monkeypatch.setattr("gnomon.lab.sweep.RATES", (1e25, 1e30))
    found = searched(wanted, 2)
    assert [t.state for t in found] == [TrialState.FAIL] * 2
    assert "Use a learning rate below" in fate(found[0])
    with pytest.raises(LabError, match="No trial came to its end"):
        write_page(wanted, found, "gnomon sweep", "signature")


def test_the_page_has_the_trials_and_a_line_to_paste(tmp_path):
    wanted = sweep(tmp_path, "growing")
    found = searched(wanted, 3)
    text = write_page(wanted, found, "gnomon sweep tiny", "gnomon:1").read_text()
    best = ranked(found)[0]
    assert f"```python\n{line(wanted, best)}\n```" in text
    assert line(wanted, best).startswith("replace(recipe, lr=")
    assert "after=(DivideRate(by=" in line(wanted, best)
    assert len(table(found).rows) == 3
    assert len(table(found, most=1).rows) == 1
    assert "drop" in words(best)


def test_a_folder_in_use_by_another_search_is_refused(tmp_path):
    wanted = sweep(tmp_path, "scratch")
    wanted.order.folder.mkdir()
    with FileLock(wanted.order.folder / "lock"), pytest.raises(BadFolder, match="in use"):
        searched(wanted, 1)
