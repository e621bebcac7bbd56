"""What is known before training starts: each way to fail is one message, and nothing is trained."""

import pytest

pytest.importorskip("lightning")
pytest.importorskip("filelock")

from tiny_experiment import experiment_file

from gnomon.lab.data import tasks
from gnomon.lab.errors import LabError
from gnomon.lab.running.checks import check
from gnomon.lab.running.orders import Order, check_folder
from gnomon.lab.training.machine import Machine


@pytest.fixture(autouse=True)
def _brightness(task, monkeypatch):
    monkeypatch.setattr(tasks, "load", lambda data, **settings: task)


def order(folder, arms=None, **changes):
    text = "\nEXPERIMENT = experiment()\n"
    if arms is not None:
        text = f"\ndef mine(size): return {{{arms}}}\nEXPERIMENT = experiment(mine)\n"
    path = experiment_file(folder, text=text)
    return Order(path, **{"preset": "quick", "seeds": (0,), "folder": folder / "runs"} | changes)


def test_a_forecast_says_how_long_each_arm_trains(tmp_path):
    asked = order(tmp_path, machine=Machine("cpu"))
    found = check(asked, asked.arms, (0,))
    assert {arm: f.epochs for arm, f in found.items()} == dict.fromkeys(asked.arms, 2)
    assert found["R2R"].cost == pytest.approx(found["scratch"].cost, rel=0.01)
    assert found["mid"].spent > found["R2R"].spent
    assert not (tmp_path / "runs").exists()


def test_a_budget_of_flops_ends_the_forecast(tmp_path):
    arms = """
        "large": Arm(recipe(size, epochs=999), large, budget=Budget(4, large)),
        "small": Arm(recipe(size, epochs=999), small, budget=Budget(4, large)),
        "grown": Arm(recipe(size, epochs=999), small, schedule=At(Widen("hidden", by=2), epoch=4),
                     budget=Budget(4, large)),
    """
    asked = order(tmp_path, arms)
    found = {arm: f.epochs for arm, f in check(asked, asked.arms, (0,)).items()}
    assert found["large"] == 4
    assert 7 <= found["small"] <= 9
    assert found["large"] < found["grown"] < found["small"]


def test_a_budget_that_the_epochs_end_before_is_noticed(tmp_path):
    arms = """
        "short": Arm(recipe(size, epochs=1), large, budget=Budget(4, large)),
        "spent": Arm(recipe(size, epochs=9), large, budget=Budget(4, large)),
        "free": Arm(recipe(size), large),
    """
    asked = order(tmp_path, arms)
    found = check(asked, asked.arms, (0,))
    assert [arm for arm in found if found[arm].wasteful] == ["short"]


BAD = {
    "refused": ('schedule=At(Widen("head", by=2), epoch=1)', "'a' cannot be trained.*head"),
    "refused on a plateau": ('schedule=OnPlateau("accuracy", Widen("head", by=2))', "head"),
    "no such layer": ('schedule=At(Widen("nowhere", by=2), epoch=1)', "nowhere"),
    "no such metric": ('schedule=OnPlateau("bleu", Widen("hidden", by=2))', "'bleu'.*never comes"),
    "no such moment": ('schedule=At(Widen("hidden", by=2), epoch=7)', "never comes: it trains for"),
}


@pytest.mark.parametrize(("schedule", "said"), BAD.values(), ids=list(BAD))
def test_a_schedule_that_cannot_be_is_known_beforehand(schedule, said, tmp_path):
    asked = order(tmp_path, f"'a': Arm(recipe(size), small, {schedule})")
    with pytest.raises(LabError, match=said):
        check(asked, asked.arms, (0,))


ODD = """
from gnomon import Deepen
class Odd(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first, self.last = nn.Linear(width, 8), nn.Linear(8, width)
    def forward(self, x):
        return self.last(self.first(x).relu())
"""


def test_a_block_that_a_file_cannot_express_must_be_given(tmp_path):
    def asked(name, blocks):
        grow = f"At(Deepen('hidden', block=Odd(4)), epoch=1), blocks={blocks}"
        arms = f"{{'a': Arm(recipe(size), small, schedule={grow})}}"
        text = f"{ODD}\ndef mine(size): return {arms}\nEXPERIMENT = experiment(mine)\n"
        path = experiment_file(tmp_path, name, text=text)
        return Order(path, preset="quick", seeds=(0,), folder=tmp_path / "runs")

    without = asked("without", "{}")
    with pytest.raises(LabError, match=r"puts in '.*Odd'.*blocks="):
        check(without, without.arms, (0,))
    given = asked("given", "{__name__ + '.Odd': lambda: Odd(4)}")
    assert check(given, given.arms, (0,))["a"].epochs == 2


def test_growth_is_checked_on_the_network_that_the_arm_starts_from(tmp_path):
    """Twice from 4 to 8 by name of the width: the second one would not grow anything."""
    arms = """
        "a": Arm(recipe(size), small, schedule=At(Widen("hidden", to=8), epoch=1)),
        "b": Arm(recipe(size), start=Start("a"), schedule=At(Widen("hidden", to=8), epoch=0)),
    """
    asked = order(tmp_path, arms)
    with pytest.raises(LabError, match="The arm 'b' cannot be trained"):
        check(asked, asked.arms, (0,))


def test_a_network_that_cannot_be_made_is_one_message(tmp_path):
    asked = order(tmp_path, "'a': Arm(recipe(size), lambda task: Net())")
    with pytest.raises(LabError, match="The arm 'a' cannot be made: TypeError"):
        check(asked, asked.arms, (0,))


def test_a_precision_and_a_device_that_are_not_there_are_said(tmp_path):
    asked = order(tmp_path, machine=Machine("cpu", "7-bit"))
    with pytest.raises(LabError, match="precision '7-bit' cannot be used"):
        check(asked, asked.arms, (0,))


def test_missing_data_are_said(tmp_path, monkeypatch):
    monkeypatch.undo()
    asked = order(tmp_path, data=str(tmp_path / "nowhere"))
    with pytest.raises(LabError, match="no such folder"):
        check(asked, asked.arms, (0,))


def test_a_folder_that_holds_runs_needs_resume(tmp_path):
    check_folder(tmp_path / "new", resume=False)
    (tmp_path / "a" / "seed-0").mkdir(parents=True)
    (tmp_path / "a" / "seed-0" / "config.json").write_text("{}")
    check_folder(tmp_path, resume=True)
    with pytest.raises(LabError, match="Add --resume"):
        check_folder(tmp_path, resume=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(LabError, match="is not a folder"):
        check_folder(tmp_path / "file", resume=True)


def test_a_moment_is_counted_in_the_epochs_own_steps(tmp_path):
    """A pass has six steps, two epochs of two steps have four: the fifth never comes."""
    late = 'Arm(recipe(size, steps=2), small, schedule=At(Widen("hidden", by=2), step=5))'
    asked = order(tmp_path, f'"late": {late}', machine=Machine("cpu"))
    with pytest.raises(LabError, match="never comes: it trains for 2 epochs, 4 steps"):
        check(asked, asked.arms, (0,))
