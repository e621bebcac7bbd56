"""Runs: whatever interrupts one, it goes on to the same end; whatever is wrong is named."""

import errno
import json
import math
import os
import resource
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("lightning")
pytest.importorskip("tensorboard")

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer
from tiny_brightness import brightness_task
from tiny_runs import (
    RECIPE,
    DropoutNet,
    alike,
    bench,
    dropout_net,
    lines,
    result,
    state,
    two_growths,
    wide_dropout_net,
)

import gnomon as gn
from gnomon.adjustments import DivideRate, Rewarm
from gnomon.lab.data.sources import Images
from gnomon.lab.errors import BadFolder, LabError
from gnomon.lab.experiment import Arm, Budget, Start
from gnomon.lab.running.runs import CHECKPOINT, _Run, budget_flops, finished
from gnomon.lab.training.machine import Machine
from gnomon.morphs import Widen
from gnomon.rules import Net2Net
from gnomon.schedule import At, OnPlateau

GROWN = Arm(RECIPE, dropout_net, schedule=two_growths())
PLATEAU = OnPlateau("accuracy", Widen("*", by=1.5), patience=1, margin=1.0, most=2)


class Stop(Exception):
    """What interrupts a run here."""


def stop_at(epoch):
    def tell(round):
        if round.point.epoch == epoch:
            raise Stop

    return tell


def place(folder, arm="run"):
    return folder / arm / "seed-0"


def same(one, other, arm="run"):
    """Whether two runs ended with the same metrics, result and checkpoint, to the bit."""
    one, other = place(one, arm), place(other, arm)
    assert lines(one) == lines(other)
    assert result(one) == result(other)
    return alike(state(one), state(other))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    bench(folder).run("run", 0, brightness_task())
    return folder


# --- a run that nothing interrupts


def test_a_folder_tells_it_all(whole, task):
    folder = place(whole)
    assert {file.name for file in folder.iterdir()} == {
        "config.json",
        "signature.json",
        "metrics.jsonl",
        "tensorboard",
        "checkpoint.pt",
        "result.json",
        "growth-1.txt",
        "growth-2.txt",
        "lock",
    }
    assert [line["event"] for line in lines(folder)] == [
        *["epoch", "epoch", "growth", "epoch", "growth", "epoch", "epoch"]
    ]
    assert "receipt: Widen(" in (folder / "growth-1.txt").read_text()
    assert "receipt: Deepen(" in (folder / "growth-2.txt").read_text()
    last = lines(folder)[-1]
    del last["event"]
    found = result(folder)
    assert {k: v for k, v in found.items() if not k.startswith("test_")} == last
    assert 0 <= found["test_accuracy"] <= 1 and found["test_loss"] > 0
    config = json.loads((folder / "config.json").read_text())
    assert config["recipe"]["lr"] == RECIPE.lr and config["seed"] == 0
    assert {"torch", "git", "gnomon"} <= json.loads((folder / "signature.json").read_text()).keys()


def test_a_finished_run_is_read_back_and_not_run_again(whole, task):
    def never(round):
        raise AssertionError("it ran again")

    before = {f: f.read_bytes() for f in place(whole).rglob("*") if f.is_file()}
    again = bench(whole).run("run", 0, task, tell=never)
    assert again == finished(place(whole))
    assert {f: f.read_bytes() for f in place(whole).rglob("*") if f.is_file()} == before


def test_the_network_depends_on_the_seed_alone_not_on_what_was_drawn_before(whole, task, tmp_path):
    torch.rand(7)
    before = torch.get_rng_state()
    bench(tmp_path).run("run", 0, task)
    assert same(tmp_path, whole)
    assert torch.equal(torch.get_rng_state(), before)
    bench(tmp_path).run("run", 1, task)
    assert lines(tmp_path / "run" / "seed-1") != lines(place(whole))


def test_snapshots_are_loaded_without_the_run(task, tmp_path):
    arm = replace(GROWN, snapshots=True, tests=False)
    found = bench(tmp_path, {"run": arm}).run("run", 0, task)
    assert found.test_accuracy is None
    names = ["growth-1", "growth-2", "final"]
    models = [gn.load(place(tmp_path) / f"{name}.safetensors", DropoutNet) for name in names]
    sizes = [sum(p.numel() for p in model.parameters()) for model in models]
    points = [line for line in lines(place(tmp_path)) if line["event"] == "epoch"]
    assert sizes == [points[2]["parameters"], points[3]["parameters"], points[4]["parameters"]]
    assert alike(dict(models[2].state_dict()), dict(state(place(tmp_path))["model"]))


# --- interrupted after an epoch


SETTINGS = {
    "r2r-adamw": {},
    "net2net-amsgrad": {
        "schedule": two_growths(Net2Net()),
        "recipe": {"optimizer": "amsgrad"},
    },
    "plateau-sgd": {"schedule": PLATEAU, "recipe": {"optimizer": "sgd"}},
    "adjusted": {"after": (DivideRate(5), Rewarm(4))},
    "budget": {"recipe": {"epochs": 99}, "budget": Budget(2, wide_dropout_net)},
}


def arm_of(recipe=None, **changes):
    return replace(GROWN, recipe=replace(RECIPE, **recipe or {}), **changes)


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_a_run_that_is_stopped_after_every_round_ends_as_if_it_never_was(setting, task, tmp_path):
    arms = {"run": arm_of(**setting)}
    bench(tmp_path / "whole", arms).run("run", 0, task)
    epochs = result(place(tmp_path / "whole"))["epoch"]
    growths = [x for x in lines(place(tmp_path / "whole")) if x["event"] == "growth"]
    assert len(growths) == 2, "it must grow twice, or the test shows nothing"
    stopped = bench(tmp_path / "stopped", arms)
    for epoch in range(epochs + 1):
        with pytest.raises(Stop):
            stopped.run("run", 0, task, tell=stop_at(epoch))
        assert not (place(tmp_path / "stopped") / "result.json").exists()
    stopped.run("run", 0, task)
    assert same(tmp_path / "stopped", tmp_path / "whole")


@pytest.mark.parametrize("epoch", [1, 2, 4])
def test_a_run_that_is_stopped_once_ends_as_if_it_never_was(epoch, whole, task, tmp_path):
    with pytest.raises(Stop):
        bench(tmp_path).run("run", 0, task, tell=stop_at(epoch))
    torch.rand(5)
    bench(tmp_path).run("run", 0, task)
    assert same(tmp_path, whole)


def test_adjustments_act_on_the_rates_of_a_run(whole, task, tmp_path):
    arms = {"run": replace(GROWN, after=(DivideRate(1e6),))}
    bench(tmp_path, arms).run("run", 0, task)
    ours, theirs = lines(place(tmp_path)), lines(place(whole))
    assert ours[:3] == theirs[:3]
    losses = [line["loss"] for line in ours if line["event"] == "epoch"]
    assert losses[-1] != theirs[-1]["loss"]


def test_metrics_are_cut_back_to_the_checkpoint(whole, task, tmp_path):
    with pytest.raises(Stop):
        bench(tmp_path).run("run", 0, task, tell=stop_at(2))
    with (place(tmp_path) / "metrics.jsonl").open("a") as file:
        file.write('{"event": "epoch", "epoch": 77}\n{"event": "gro')
    bench(tmp_path).run("run", 0, task)
    assert same(tmp_path, whole)


def test_metrics_of_a_run_without_a_checkpoint_begin_anew(whole, task, tmp_path, monkeypatch):
    interrupt_saving(monkeypatch, 1)
    with pytest.raises(Stop):
        bench(tmp_path).run("run", 0, task)
    assert lines(place(tmp_path)) and not (place(tmp_path) / CHECKPOINT).exists()
    bench(tmp_path).run("run", 0, task)
    assert same(tmp_path, whole)


def interrupt_saving(monkeypatch, *which):
    """Stop before these of the checkpoints that are written from now on (from 1)."""
    save, count = _Run._save, iter(range(1, 99))

    def stopped(self, training):
        if next(count) in which:
            raise Stop
        save(self, training)

    monkeypatch.setattr(_Run, "_save", stopped)


def test_lost_metrics_are_not_made_up(task, tmp_path):
    with pytest.raises(Stop):
        bench(tmp_path).run("run", 0, task, tell=stop_at(2))
    (place(tmp_path) / "metrics.jsonl").unlink()
    with pytest.raises(BadFolder, match="lines are missing"):
        bench(tmp_path).run("run", 0, task)


@pytest.fixture
def in_turn(monkeypatch):
    """Event files are told apart by time, process and a counter; these runs share the first two."""
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))


@pytest.mark.parametrize("lost", [(1,), (3,), (5,), (1, 3, 6, 8)], ids=str)
def test_tensorboard_shows_each_measurement_once(lost, whole, task, tmp_path, monkeypatch, in_turn):
    interrupt_saving(monkeypatch, *lost)
    for _ in lost:
        with pytest.raises(Stop):
            bench(tmp_path).run("run", 0, task)
    bench(tmp_path).run("run", 0, task)
    assert len([*(place(tmp_path) / "tensorboard").iterdir()]) == len(lost) + 1
    events = EventAccumulator(str(place(tmp_path) / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    points = [line for line in lines(place(whole)) if line["event"] == "epoch"]
    for tag in ("loss", "accuracy", "parameters", "flops"):
        expected = [(p["step"], p[tag]) for p in points if p[tag] is not None]
        found = [(e.step, e.value) for e in events.Scalars(tag)]
        assert [step for step, _ in found] == [step for step, _ in expected]
        assert [v for _, v in found] == pytest.approx([v for _, v in expected])


# --- arms that start from others


def rows(carry, **changes):
    student = Arm(
        replace(RECIPE, epochs=2, seed=5), start=Start("teacher", carry=carry),
        schedule=At(Widen("*", by=1.5), epoch=1), **changes,
    )  # fmt: skip
    return {"teacher": replace(GROWN, tests=False), "student": student}


@pytest.mark.parametrize("carry", [True, False])
def test_an_arm_begins_with_what_another_one_has_left(carry, whole, task, tmp_path):
    arms = rows(carry)
    found = bench(tmp_path, arms)
    teacher = found.run("teacher", 0, task)
    student = found.run("student", 0, task)
    first = lines(place(tmp_path, "student"))[0]
    assert first["parameters"] == teacher.parameters and first["accuracy"] == teacher.accuracy
    spent = {name: getattr(teacher, name) for name in ("epoch", "step", "flops", "paper_flops")}
    assert {name: first[name] for name in spent} == (spent if carry else dict.fromkeys(spent, 0))
    assert student.epoch == (6 if carry else 2)
    assert student.seconds > (teacher.seconds if carry else 0)
    assert student.parameters > teacher.parameters
    assert (place(tmp_path, "student") / "growth-3.txt").exists()
    assert same_weights(tmp_path, "teacher", whole, "run"), "the teacher is as it was"


def same_weights(one, arm, other, name):
    return alike(state(place(one, arm))["model"], state(place(other, name))["model"])


@pytest.mark.parametrize("carry", [True, False])
def test_an_arm_that_started_from_another_is_resumed(carry, task, tmp_path):
    for folder in ("whole", "stopped"):
        bench(tmp_path / folder, rows(carry)).run("teacher", 0, task)
    bench(tmp_path / "whole", rows(carry)).run("student", 0, task)
    first = 4 if carry else 0
    for epoch in range(first, first + 3):
        with pytest.raises(Stop):
            bench(tmp_path / "stopped", rows(carry)).run("student", 0, task, tell=stop_at(epoch))
    bench(tmp_path / "stopped", rows(carry)).run("student", 0, task)
    ours, theirs = (lines(place(tmp_path / x, "student")) for x in ("stopped", "whole"))
    assert ours == theirs
    assert same_weights(tmp_path / "stopped", "student", tmp_path / "whole", "student")


def test_an_arm_whose_start_is_not_finished_says_so(task, tmp_path):
    found = bench(tmp_path, rows(True))
    with pytest.raises(LabError, match=r"teacher/seed-0' is not finished"):
        found.run("student", 0, task)
    with pytest.raises(Stop):
        found.run("teacher", 0, task, tell=stop_at(2))
    with pytest.raises(LabError, match=r"teacher/seed-0' is not finished"):
        found.run("student", 0, task)


def test_an_arm_whose_start_has_lost_its_checkpoint_does_not_start_from_scratch(task, tmp_path):
    found = bench(tmp_path, rows(False))
    found.run("teacher", 0, task)
    (place(tmp_path, "teacher") / CHECKPOINT).unlink()
    with pytest.raises(LabError, match=r"teacher/seed-0/checkpoint\.pt' cannot be read"):
        found.run("student", 0, task)


def test_an_arm_does_not_start_from_a_run_of_other_settings(task, tmp_path):
    arms = rows(False)
    bench(tmp_path, arms).run("teacher", 0, task)
    other = replace(arms["teacher"], recipe=replace(RECIPE, lr=2e-2))
    with pytest.raises(BadFolder, match=r"teacher/seed-0' holds .* \(recipe\.lr\)"):
        bench(tmp_path, {**arms, "teacher": other}).run("student", 0, task)


# --- budgets


def test_a_budget_is_what_training_another_network_takes(task, tmp_path):
    budget = Budget(1.5, wide_dropout_net)
    flops = budget_flops(budget, task, RECIPE)
    assert flops == round(1.5 * budget_flops(replace(budget, epochs=1), task, RECIPE))
    wide = Arm(replace(RECIPE, epochs=1), wide_dropout_net)
    one = bench(tmp_path, {"wide": wide}).run("wide", 0, task)
    assert one.flops == budget_flops(replace(budget, epochs=1), task, RECIPE)
    arms = {"run": replace(GROWN, recipe=replace(RECIPE, epochs=99), budget=budget)}
    found = bench(tmp_path, arms).run("run", 0, task)
    large = two_points(lines(place(tmp_path)))
    assert flops - large < found.flops <= flops


def two_points(found):
    """The FLOPs of a step at the end of a run."""
    last, before = [line for line in found if line["event"] == "epoch"][:-3:-1]
    return (last["flops"] - before["flops"]) // (last["step"] - before["step"])


def test_a_budget_changes_nothing_but_when_training_ends(task, tmp_path):
    """The budget's own network must not draw from what the run's is drawn from."""
    plain = Arm(RECIPE, dropout_net)
    arms = {"plain": plain, "paid": replace(plain, budget=Budget(99, wide_dropout_net))}
    for arm in arms:
        bench(tmp_path, arms).run(arm, 0, task)
    assert lines(place(tmp_path, "plain")) == lines(place(tmp_path, "paid"))


def test_a_budget_that_the_start_has_spent_is_refused_and_the_folder_stays_as_it_is(task, tmp_path):
    arms = rows(True, budget=Budget(1, dropout_net))
    found = bench(tmp_path, arms)
    found.run("teacher", 0, task)
    for _ in range(2):
        with pytest.raises(LabError, match=r"Training cannot begin: .* are spent already"):
            found.run("student", 0, task)
    assert not (place(tmp_path, "student") / CHECKPOINT).exists()


# --- other settings


def changed(**changes):
    return {"run": replace(GROWN, **changes)}


@dataclass(frozen=True)
class Another(nn.Module):
    pass


OTHERS = {
    "recipe.lr": lambda folder: bench(folder, lr=3e-2),
    "recipe.epochs, recipe.optimizer": lambda folder: bench(folder, epochs=9, optimizer="sgd"),
    "network": lambda folder: bench(folder, changed(network=wide_dropout_net)),
    "schedule": lambda folder: bench(folder, changed(schedule=PLATEAU)),
    "after": lambda folder: bench(folder, changed(after=DivideRate(5))),
    "recipe.flops": lambda folder: bench(folder, changed(budget=Budget(2, dropout_net))),
    "tests": lambda folder: bench(folder, changed(tests=False)),
    "snapshots": lambda folder: bench(folder, changed(snapshots=True)),
    "data.validation": lambda folder: replace(bench(folder), data=Images("brightness", 7)),
    "precision": lambda folder: replace(bench(folder), machine=Machine("cpu", "bf16-mixed")),
}


@pytest.mark.parametrize("names", OTHERS)
@pytest.mark.parametrize("end", ["finished", "interrupted"])
def test_a_folder_with_a_run_of_other_settings_is_refused_by_name(
    names, end, whole, task, tmp_path
):
    if end == "interrupted" and not place(tmp_path).exists():
        with pytest.raises(Stop):
            bench(tmp_path).run("run", 0, task, tell=stop_at(0))
    folder = whole if end == "finished" else tmp_path
    before = (place(folder) / "metrics.jsonl").read_bytes()
    with pytest.raises(BadFolder) as error:
        OTHERS[names](folder).run("run", 0, task)
    assert f"of other settings ({names}). Choose another with --out" in str(error.value)
    assert (place(folder) / "metrics.jsonl").read_bytes() == before


def test_another_start_is_named(task, tmp_path):
    found = bench(tmp_path, rows(True))
    found.run("teacher", 0, task)
    found.run("student", 0, task)
    with pytest.raises(BadFolder, match=r"\(carry\)"):
        bench(tmp_path, rows(False)).run("student", 0, task)


def test_other_threads_are_named_since_they_decide_about_bits(whole, task, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    with pytest.raises(BadFolder, match=r"\(threads\)"):
        bench(whole).run("run", 0, task)


def test_addresses_in_memory_are_no_settings(task, tmp_path):
    def sized(make, task):
        return make(task)

    def arms():
        block = lambda: nn.Sequential(nn.Conv2d(6, 8, 1), nn.ReLU(), nn.Conv2d(8, 6, 1))  # noqa: E731
        schedule = At(Widen("*", by=1.5), epoch=1) + At(gn.Deepen("stem.2", block=block), epoch=2)
        inner = eval("lambda task: dropout_net(task)", {"dropout_net": dropout_net})
        return {"run": replace(GROWN, network=partial(sized, inner), schedule=schedule)}

    first, second = arms(), arms()
    assert repr(first["run"].schedule) != repr(second["run"].schedule)
    with pytest.raises(Stop):
        bench(tmp_path, first).run("run", 0, task, tell=stop_at(1))
    assert " at 0x" not in (place(tmp_path) / "config.json").read_text()
    bench(tmp_path, second).run("run", 0, task, tell=lambda round: None)


class Odd(nn.Module):
    """A block that a file cannot express: what it was given is nowhere to be read."""

    def __init__(self, layers):
        super().__init__()
        self.first, self.last = nn.Conv2d(*layers, 1), nn.Conv2d(*layers[::-1], 1)

    def forward(self, x):
        return self.last(self.first(x).relu())


def test_a_run_with_a_block_of_its_own_goes_on_to_the_same_bits(task, tmp_path):
    schedule = At(gn.Deepen("stem.2", block=Odd((4, 8))), epoch=1)
    blocks = {f"{__name__}.Odd": lambda: Odd((4, 8))}
    arms = {"run": replace(GROWN, schedule=schedule, blocks=blocks)}
    bench(tmp_path / "whole", arms).run("run", 0, task)
    with pytest.raises(Stop):
        bench(tmp_path / "cut", arms).run("run", 0, task, tell=stop_at(2))
    bench(tmp_path / "cut", arms).run("run", 0, task)
    assert result(place(tmp_path / "cut")) == result(place(tmp_path / "whole"))
    assert lines(place(tmp_path / "cut")) == lines(place(tmp_path / "whole"))


# --- folders


@contextmanager
def held_elsewhere(file):
    code = (
        "import sys, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire();"
        "print('held', flush=True); sys.stdin.read()"
    )
    arguments = [sys.executable, "-c", code, str(file)]
    pipe = subprocess.PIPE
    with subprocess.Popen(arguments, stdin=pipe, stdout=pipe, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        yield holder
        holder.stdin.close()


def test_a_folder_that_another_process_uses_is_refused_until_that_ends(whole, task, tmp_path):
    place(tmp_path).mkdir(parents=True)
    with held_elsewhere(place(tmp_path) / "lock"):
        with pytest.raises(BadFolder, match="is in use by another run"):
            bench(tmp_path).run("run", 0, task)
        assert [file.name for file in place(tmp_path).iterdir()] == ["lock"]
    bench(tmp_path).run("run", 0, task)
    assert same(tmp_path, whole)


def test_a_process_that_is_killed_gives_its_folder_back(task, tmp_path):
    place(tmp_path).mkdir(parents=True)
    with held_elsewhere(place(tmp_path) / "lock") as holder:
        holder.kill()
        holder.wait()
        with pytest.raises(Stop):
            bench(tmp_path).run("run", 0, task, tell=stop_at(0))


def test_a_folder_that_this_process_uses_is_refused_and_the_first_run_goes_on(
    whole, task, tmp_path
):
    refused = []

    def tell(round):
        with pytest.raises(BadFolder, match="is in use by another run"):
            bench(tmp_path).run("run", 0, task)
        refused.append(round)

    bench(tmp_path).run("run", 0, task, tell=tell)
    assert len(refused) == 5
    assert same(tmp_path, whole)


@pytest.mark.parametrize("name", ["run", "run/seed-0", "run/seed-0/lock/"])
def test_a_file_where_a_folder_should_be_is_named(name, task, tmp_path):
    if name.endswith("/"):
        (tmp_path / name).mkdir(parents=True)
    else:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
    with pytest.raises(BadFolder, match=r"seed-0' cannot be written to"):
        bench(tmp_path).run("run", 0, task)


def test_a_folder_that_cannot_be_written_to_is_named(task, tmp_path, monkeypatch):
    with pytest.raises(BadFolder, match=r"'/proc/gnomon/run/seed-0' cannot be written to"):
        bench(Path("/proc/gnomon")).run("run", 0, task)

    def read_only(*args, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "touch", read_only)
    with pytest.raises(BadFolder, match="Read-only file system"):
        bench(tmp_path).run("run", 0, task)


def test_errors_of_the_caller_are_not_taken_for_those_of_the_folder(task, tmp_path):
    def tell(round):
        raise BrokenPipeError("nobody listens")

    with pytest.raises(BrokenPipeError):
        bench(tmp_path).run("run", 0, task, tell=tell)


# --- damage


def half(tmp_path, task, epoch=2):
    with pytest.raises(Stop):
        bench(tmp_path).run("run", 0, task, tell=stop_at(epoch))
    return place(tmp_path) / CHECKPOINT


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
def test_a_checkpoint_that_is_cut_off_is_refused(share, task, tmp_path):
    file = half(tmp_path, task)
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(LabError, match=r"checkpoint\.pt' cannot be read .*Remove the folder"):
        bench(tmp_path).run("run", 0, task)
    assert len(file.read_bytes()) == int(share * len(content)), "it is left to be looked at"


def forget(*path):
    def change(state):
        inner = state
        for name in path[:-1]:
            inner = inner[name]
        del inner[path[-1]]

    return change


def tamper(*path, value):
    def change(state):
        inner = state
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] = value

    return change


STRANGE = {
    "no training": forget("training"),
    "no length": forget("lines"),
    "no counters": forget("training", "spent"),
    "no growth": forget("training", "growth"),
    "no history": tamper("training", "growth", value={"plain": "{}", "waiting": []}),
    "bad history": tamper("training", "growth", value={"plain": "[", "waiting": []}),
    "no generator": tamper("training", "order", value=torch.zeros(3)),
    "other weights": tamper("training", "model", value={"w": torch.zeros(3)}),
    "other optimizer": tamper("training", "optimizer", value={"state": {}, "param_groups": []}),
    "a list": tamper("training", value=[]),
    "text": tamper("training", "timeline", value="{"),
}


@pytest.mark.parametrize("change", STRANGE.values(), ids=STRANGE)
def test_a_checkpoint_that_can_be_read_but_makes_no_sense_is_refused(change, task, tmp_path):
    file = half(tmp_path, task)
    content = torch.load(file, weights_only=True)
    change(content)
    torch.save(content, file)
    with pytest.raises(LabError, match=r"checkpoint\.pt' does not fit"):
        bench(tmp_path).run("run", 0, task)


@pytest.mark.parametrize("content", [[], torch.zeros(2), 3, "text"], ids=repr)
def test_a_checkpoint_of_something_else_is_refused(content, task, tmp_path):
    file = half(tmp_path, task)
    torch.save(content, file)
    with pytest.raises(LabError, match=r"checkpoint\.pt' does not fit"):
        bench(tmp_path).run("run", 0, task)


class Evil:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


@pytest.mark.parametrize("where", ["own", "start"])
def test_a_checkpoint_with_code_in_it_is_refused_and_the_code_not_run(where, task, tmp_path):
    arms = rows(False)
    bench(tmp_path, arms).run("teacher", 0, task)
    name = "teacher"
    if where == "own":
        name = "student"
        with pytest.raises(Stop):
            bench(tmp_path, arms).run("student", 0, task, tell=stop_at(0))
    file, trap = place(tmp_path, name) / CHECKPOINT, tmp_path / "executed"
    content = torch.load(file, weights_only=True)
    torch.save(content | {"more": Evil(trap)}, file)
    with pytest.raises(LabError, match=r"checkpoint\.pt' cannot be read"):
        bench(tmp_path, arms).run("student", 0, task)
    assert not trap.exists()
    torch.load(file, weights_only=False)
    assert trap.exists(), "or the trap is none"


@pytest.mark.parametrize("content", ["", '{"epoch": 4', "[]", '{"other": 1}', "null"])
def test_a_damaged_result_is_refused_and_written_anew_once_it_is_removed(
    content, whole, task, tmp_path
):
    bench(tmp_path).run("run", 0, task)
    file = place(tmp_path) / "result.json"
    file.write_text(content)
    with pytest.raises(LabError, match=r"result\.json' cannot be read .*Remove it"):
        bench(tmp_path).run("run", 0, task)
    file.unlink()
    bench(tmp_path).run("run", 0, task)
    assert same(tmp_path, whole)


@pytest.mark.parametrize("content", ["", '{"seed": ', "[]", "null"])
def test_damaged_settings_are_refused(content, task, tmp_path):
    half(tmp_path, task)
    (place(tmp_path) / "config.json").write_text(content)
    with pytest.raises(BadFolder, match=r"config\.json' cannot be read"):
        bench(tmp_path).run("run", 0, task)


# --- a full disk


def full(*args, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_for_torch(*args, **options):
    raise RuntimeError("[enforce fail at inline_container.cc:862] . PytorchStreamWriter failed")


@contextmanager
def failing(owner, name, error, after):
    """Let a function fail from its so many-th call on; opening to read does not count."""
    real, count = getattr(owner, name), iter(range(10**6))

    def limited(*args, **options):
        mode = options.get("mode", args[1] if len(args) > 1 else "r")
        reads = name == "open" and str(mode).startswith("r")
        return (real if reads or next(count) < after else error)(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, limited)
        yield


DISKS = {
    "fsync": (os, "fsync", full),
    "save": (torch, "save", full),
    "stream": (torch, "save", full_for_torch),
    "open": (Path, "open", full),
    "rename": (os, "replace", full),
    "events": (event_file_writer.RecordWriter, "write", full),
}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("how", DISKS)
def test_a_disk_that_fills_up_costs_the_epoch_in_progress_and_no_more(how, whole, task, tmp_path):
    failures, after = 0, 0
    while failures < 40:
        before = saved(tmp_path)
        with failing(*DISKS[how], after):
            try:
                bench(tmp_path).run("run", 0, task)
                break
            except BadFolder as error:
                assert "go on with --resume" in str(error)
        failures, after = failures + 1, after + 2
        now = saved(tmp_path)
        assert now is None or now["lines"] >= (before["lines"] if before else 0)
        assert not list(place(tmp_path).glob("*.tmp"))
    assert failures >= 2
    assert same(tmp_path, whole)


def saved(folder):
    file = place(folder) / CHECKPOINT
    return torch.load(file, weights_only=True) if file.exists() else None


@contextmanager
def largest_file(size):
    """The system itself refuses to let a file grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("snapshots", [True, False])
def test_a_write_that_the_system_cuts_off_in_the_middle_leaves_the_old_file(
    snapshots, task, tmp_path
):
    arms = {"run": replace(GROWN, snapshots=snapshots)}
    for folder in ("whole", "full"):
        with pytest.raises(Stop):
            bench(tmp_path / folder, arms).run("run", 0, task, tell=stop_at(0))
    size = (place(tmp_path / "full") / CHECKPOINT).stat().st_size
    small = 6000 if snapshots else size + 3000
    with largest_file(small), pytest.raises(BadFolder, match="cannot be written"):
        bench(tmp_path / "full", arms).run("run", 0, task)
    assert (place(tmp_path / "full") / CHECKPOINT).stat().st_size == size
    assert not [*place(tmp_path / "full").glob("*.tmp"), *place(tmp_path / "full").glob("*.part")]
    for folder in ("whole", "full"):
        bench(tmp_path / folder, arms).run("run", 0, task)
    assert same(tmp_path / "full", tmp_path / "whole")


# --- numbers that are none


def test_a_run_that_diverges_says_so_again_when_it_is_resumed(task, tmp_path):
    wild = replace(RECIPE, lr=1e25, optimizer="sgd", warmup=0.0)
    found = bench(tmp_path, {"run": replace(GROWN, recipe=wild, schedule=None)})
    for _ in range(2):
        with pytest.raises(LabError, match=r"loss of epoch 1 is (nan|inf).*below 1e\+25"):
            found.run("run", 0, task)
    assert not (place(tmp_path) / "result.json").exists()
    assert [line["epoch"] for line in lines(place(tmp_path))] == [0]
    with pytest.raises(LabError, match="is not finished"):
        finished(place(tmp_path))
    with pytest.raises(BadFolder, match=r"\(recipe\.lr\)"):
        tame = replace(wild, lr=1e-2)
        bench(tmp_path, {"run": replace(GROWN, recipe=tame, schedule=None)}).run("run", 0, task)


def nan_net(task):
    model = DropoutNet()
    nn.init.constant_(model.head.weight, math.nan)
    return model


def test_a_network_of_nan_is_refused_in_its_first_epoch(task, tmp_path):
    with pytest.raises(LabError, match="loss of epoch 1 is nan"):
        bench(tmp_path, {"run": Arm(RECIPE, nan_net)}).run("run", 0, task)


def test_a_growth_that_is_refused_leaves_the_run_before_it(task, tmp_path):
    schedule = At(Widen("nowhere", by=2), epoch=2)
    found = bench(tmp_path, {"run": replace(GROWN, schedule=schedule)})
    for _ in range(2):
        with pytest.raises(gn.NoSuchGroup):
            found.run("run", 0, task)
    assert state(place(tmp_path))["spent"]["epoch"] == 1
