"""Many runs: in order, all of them, whatever happens to one."""

import json

import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("filelock")
pytest.importorskip("tensorboard")

from tiny_experiment import Watching, experiment_file, inline

from gnomon.lab.data import tasks
from gnomon.lab.errors import LabError
from gnomon.lab.running.jobs import train
from gnomon.lab.running.orders import Order, Run
from gnomon.lab.training.machine import Machine


@pytest.fixture
def brightness(task, monkeypatch):
    monkeypatch.setattr(tasks, "load", lambda data, **settings: task)


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def order(folder, text="\nEXPERIMENT = experiment()\n", seeds=(0, 1)):
    path = experiment_file(folder, text=text)
    return Order(path, "quick", seeds, folder / "runs", machine=Machine("cpu"))


def test_arms_start_after_those_they_start_from_seed_by_seed(brightness, tmp_path):
    asked, watch = order(tmp_path), Watching()
    outcome = train(asked, asked.arms, watch, jobs=1, crew=inline)
    begun = [line.removeprefix("started ") for line in watch.seen if line.startswith("started")]
    arms = ("teacher", "scratch", "R2R", "mid")
    assert begun == [f"{arm}, seed {seed}" for seed in (0, 1) for arm in arms]
    assert "measured mid, seed 1: 4" in watch.seen, "its meters go on where its start's stood"
    assert not outcome.failed | outcome.skipped
    assert outcome.finished[Run("mid", 0)].epoch == 4


def test_finished_runs_are_read_back(brightness, tmp_path):
    asked = order(tmp_path)
    first = train(asked, asked.arms, Watching(), jobs=2, crew=inline)
    watch = Watching()
    again = train(asked, asked.arms, watch, jobs=2, crew=inline)
    assert again.finished == first.finished
    assert not [line for line in watch.seen if line.startswith("measured")]


def test_runs_that_end_together_are_told_of_in_the_order_in_which_they_began(brightness, tmp_path):
    asked, watch = order(tmp_path, seeds=(0, 1, 2, 3)), Watching()
    train(asked, asked.arms, watch, jobs=8, crew=inline)
    begun = [line.removeprefix("started ") for line in watch.seen if line.startswith("started")]
    over = [line.removeprefix("finished ") for line in watch.seen if line.startswith("finished")]
    assert over == begun


FAILING = """
def bad(size):
    return arms(size) | {
        "diverges": Arm(recipe(size, lr=1e30, optimizer="sgd"), large),
        "after it": Arm(recipe(size), start=Start("diverges")),
        "after that": Arm(recipe(size), start=Start("after it")),
        "breaks": Arm(recipe(size), lambda task: Net("wide")),
    }
EXPERIMENT = experiment(bad)
"""


def test_a_run_that_fails_stops_only_what_starts_from_it(brightness, tmp_path):
    asked, watch = order(tmp_path, FAILING, seeds=(0,)), Watching()
    outcome = train(asked, asked.arms, watch, jobs=2, crew=inline)
    assert {run.arm for run in outcome.finished} == {"teacher", "scratch", "R2R", "mid"}
    assert "Use a learning rate below 1e+30" in outcome.failed[Run("diverges", 0)]
    assert {run.arm for run in outcome.skipped} == {"after it", "after that"}
    assert "'diverges, seed 0'" in outcome.skipped[Run("after it", 0)]
    error = tmp_path / "runs" / "breaks" / "seed-0" / "error.txt"
    assert str(error) in outcome.failed[Run("breaks", 0)]
    assert "Traceback" in error.read_text()


def test_runs_of_other_settings_are_refused_one_by_one(brightness, tmp_path):
    asked = order(tmp_path, seeds=(0,))
    train(asked, asked.arms, Watching(), jobs=1, crew=inline)
    other = experiment_file(
        tmp_path, "other", text="\nARMS = arms\ndef mine(size):\n    return ARMS(size) | "
        "{'scratch': Arm(recipe(size, lr=1.0), large)}\nEXPERIMENT = experiment(mine)\n",
    )  # fmt: skip
    asked = Order(other, "quick", (0,), asked.folder, machine=Machine("cpu"))
    outcome = train(asked, asked.arms, Watching(), jobs=1, crew=inline)
    assert {run.arm for run in outcome.failed} == {"scratch"}
    assert "other settings (recipe.lr)" in outcome.failed[Run("scratch", 0)]


DIGITS = """
from gnomon.models import DigitsNet
def digits(size):
    return {
        "a": Arm(recipe(size), lambda task: DigitsNet(2)),
        "b": Arm(recipe(size), start=Start("a"), schedule=At(Widen("*", by=2), epoch=1)),
    }
EXPERIMENT = experiment(digits, data=Images("digits", None))
"""


def test_processes_give_what_this_process_gives(tmp_path):
    pytest.importorskip("sklearn")
    watch = Watching()
    one, other = (order(tmp_path / name, DIGITS, seeds=(0,)) for name in ("one", "other"))
    apart = train(one, one.arms, watch, jobs=2).finished
    here = train(other, other.arms, Watching(), jobs=1, crew=inline).finished
    for run, result in here.items():
        assert apart[run].accuracy == result.accuracy
        assert apart[run].loss == result.loss
    assert "measured b, seed 0: 2" in watch.seen
    signature = json.loads((one.folder / "a" / "seed-0" / "signature.json").read_text())
    assert signature["device"] == "cpu"


KILLED = """
import multiprocessing, os, signal
def killed(task):
    if multiprocessing.parent_process() is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    return Net(4)
EXPERIMENT = experiment(lambda size: {"a": Arm(recipe(size), killed)}, data=Images("digits", None))
"""


def test_a_killed_process_is_said_and_resume_recommended(tmp_path):
    pytest.importorskip("sklearn")
    asked = order(tmp_path, KILLED, seeds=(0,))
    with pytest.raises(LabError, match=r"killed from outside.*a, seed 0.*--resume"):
        train(asked, asked.arms, Watching(), jobs=1)
