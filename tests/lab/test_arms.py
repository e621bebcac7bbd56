"""Outcomes: the comparison within a budget; stages: what is recorded and shown of an arm."""

import math

import pytest
from torch import nn

pytest.importorskip("lightning")

from gnomon.lab.arms import Outcome, Stage
from gnomon.lab.running.record import Record
from gnomon.lab.training.machine import Machine
from gnomon.lab.training.recipe import Recipe
from gnomon.lab.training.train import Measured
from gnomon.models import DigitsNet
from gnomon.morphs import Widen
from gnomon.schedule import At, Timeline


def test_equal_compute_takes_the_last_epoch_within_the_budget_not_the_best():
    points = [
        Measured(epoch=i, step=i, flops=10 * i, accuracy=a) for i, a in enumerate([0.1, 0.9, 0.5])
    ]
    arm = Outcome("arm", nn.Identity(), points, (), 0.0)
    assert arm.within(20).accuracy == 0.5
    assert arm.within(19).accuracy == 0.9


class Told:
    def __init__(self):
        self.said = []

    def started(self, arm, parameters, epochs):
        self.said.append(("started", arm, parameters, epochs))

    def measured(self, arm, point):
        self.said.append(("measured", arm, point.epoch))

    def grew(self, arm, plan, receipt):
        self.said.append(("grew", arm, plan.partition(":")[0]))
        assert receipt.startswith("receipt: ")


def test_an_arm_is_shown_and_recorded_as_it_goes_and_tested_at_its_end(task, tmp_path):
    record, told, model = Record(tmp_path / "run"), Told(), DigitsNet(2, classes=2)
    stage = Stage(task, Recipe(epochs=2, batch=32), Machine("cpu"), record, told)
    parameters = sum(p.numel() for p in model.parameters())
    timeline = Timeline(At([Widen("stage1*", by=2), Widen("stage2*", by=2)], epoch=1))
    outcome = stage.arm("grown", model, timeline)
    assert told.said == [
        ("started", "grown", parameters, 2),
        ("measured", "grown", 0),
        ("measured", "grown", 1),
        ("grew", "grown", "plan"),
        ("grew", "grown", "plan"),
        ("measured", "grown", 2),
    ]
    lines = record.lines()
    assert [line["event"] for line in lines] == [
        "epoch",
        "epoch",
        "growth",
        "growth",
        "epoch",
        "test",
    ]
    assert [line["receipt"][:8] for line in lines if line["event"] == "growth"] == ["receipt:"] * 2
    assert lines[-1]["accuracy"] == outcome.test_accuracy
    assert (tmp_path / "run" / "receipt.txt").read_text().count("receipt: Widen") == 2
    assert outcome.grower.history and len(outcome.growths) == 2
    assert math.isnan(outcome.points[0].loss)


def test_an_arm_that_does_not_grow_has_no_grower_and_no_receipt(task, tmp_path):
    stage = Stage(task, Recipe(epochs=1), Machine("cpu"), Record(tmp_path), Told())
    assert stage.arm("small", DigitsNet(2, classes=2)).grower is None
    assert not (tmp_path / "receipt.txt").exists()
