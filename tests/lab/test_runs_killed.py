"""kill -9: whatever the moment, the run goes on to the same end, and no file is half-written."""

import json
import os
import random
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("tensorboard")
pytest.importorskip("sklearn")

from killed_run import POINTS
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_runs import alike, lines, result, state

SCRIPT = Path(__file__).with_name("killed_run.py")


class Server:
    """A process that has imported everything, and forks a run for each order."""

    def __init__(self, process):
        self.process = process

    def run(self, folder, name, *, die=None, kill_after=None):
        """Run, and kill it if asked. Returns whether it came to its end, and the seconds."""
        order = {"folder": str(folder), "name": name, "die": die, "kill_after": kill_after}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        how, seconds = self.process.stdout.readline().split()
        assert how in ("ended", "killed"), "see stderr"
        return how == "ended", float(seconds)


@contextmanager
def started(*arguments):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, str(SCRIPT), *arguments],
        env=environment, stdin=pipe, stdout=pipe, text=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def server():
    with started() as process:
        yield Server(process)


@pytest.fixture(scope="module")
def whole(server, tmp_path_factory):
    """Per name: the folder of a run that nothing interrupted, and the seconds that it took."""
    found = {}

    def made(name):
        if name not in found:
            folder = tmp_path_factory.mktemp(name)
            ended, seconds = server.run(folder, name)
            assert ended
            found[name] = place(folder, name), seconds
        return found[name]

    return made


def place(folder, name):
    return folder / name / "seed-0"


def check_files(folder):
    """Open all that has a real name; what is half-written must not have one."""
    for file in folder.rglob("*"):
        if file.suffix == ".json":
            json.loads(file.read_text())
        elif file.suffix == ".pt":
            torch.load(file, weights_only=True)
        elif file.suffix == ".safetensors":
            load_file(file)
        elif file.suffix == ".txt":
            assert file.read_text().endswith("\n")
        elif file.is_file():
            known = ("metrics.jsonl", "lock")
            assert file.name in known or file.suffix in (".tmp", ".part") or "tfevents" in file.name


def check_end(folder, expected):
    """The run is complete, and all that it left is as if nothing had happened."""
    assert lines(folder) == lines(expected)
    assert result(folder) == result(expected)
    assert alike(state(folder), state(expected))
    names = [sorted(file.name for file in place.iterdir()) for place in (folder, expected)]
    assert names[0] == names[1], "no draft is left, and no file is missing"
    for file in folder.glob("*.safetensors"):
        assert alike(load_file(file), load_file(expected / file.name))
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    points = [line["step"] for line in lines(expected) if line["event"] == "epoch"]
    assert [event.step for event in events.Scalars("accuracy")] == points


@pytest.mark.parametrize(
    "point, count",
    [
        pytest.param("before a checkpoint", 1, marks=pytest.mark.slow),
        pytest.param("in a checkpoint", 1, marks=pytest.mark.slow),
        ("in a checkpoint", 3),
        pytest.param("before a rename", 1, marks=pytest.mark.slow),  # signature.json
        ("behind a rename", 1),
        pytest.param("behind a rename", 2, marks=pytest.mark.slow),  # config.json
        pytest.param("behind a rename", 3, marks=pytest.mark.slow),  # the first checkpoint
        pytest.param("before a rename", 7, marks=pytest.mark.slow),
        ("behind a rename", 12),  # result.json, but for the last snapshot
        ("in a line", 3),
        ("behind a line", 4),
        pytest.param("in a snapshot", 1, marks=pytest.mark.slow),
        ("in a snapshot", 3),
        ("before the weights grow", 2),
        ("behind the weights grew", 1),
        pytest.param("behind the weights grew", 2, marks=pytest.mark.slow),
        ("in an event", 9),
    ],
)
def test_a_run_that_dies_at_a_delicate_point_goes_on_to_the_same_end(
    point, count, server, whole, tmp_path
):
    expected, _ = whole("tiny")
    assert point in POINTS
    ended, _ = server.run(tmp_path, "tiny", die=(point, count))
    assert not ended, "it must have died"
    folder = place(tmp_path, "tiny")
    check_files(folder)
    assert server.run(tmp_path, "tiny")[0]
    check_end(folder, expected)


def test_three_kills_in_one_run_change_nothing(server, whole, tmp_path):
    expected, seconds = whole("digits")
    kills, attempt = 0, 0
    while kills < 3:
        folder = tmp_path / f"run-{attempt}"
        ended, took = server.run(folder, "digits", kill_after=0.3 * seconds)
        check_files(folder)
        kills += not ended
        if ended:  # this machine has become faster: begin again
            kills, attempt, seconds = 0, attempt + 1, min(took, seconds / 2)
    assert server.run(folder, "digits")[0]
    check_end(place(folder, "digits"), expected)


@pytest.mark.slow
def test_fifty_kills_at_random_moments_of_fifty_runs_change_nothing(server, whole, tmp_path):
    expected, seconds = whole("digits")
    draw, killed, again = random.Random(0), 0, 0
    for run in range(120):
        folder = tmp_path / f"run-{run}"
        ended, took = server.run(folder, "digits", kill_after=draw.random() * seconds)
        check_files(folder)
        if ended:  # the moment came too late
            seconds = min(seconds, took)
            continue
        killed += 1
        if killed % 3 == 0:
            again += not server.run(folder, "digits", kill_after=draw.random() * seconds)[0]
            check_files(folder)
        ended, _ = server.run(folder, "digits")
        assert ended
        check_end(place(folder, "digits"), expected)
        if killed == 50:
            break
    assert killed == 50 and again > 5


@pytest.mark.slow
def test_kills_of_processes_of_their_own_also_while_they_import(whole, tmp_path):
    expected, _ = whole("digits")
    start = time.perf_counter()
    with started(str(tmp_path / "alone"), "digits") as process:
        assert process.wait() == 0
    check_end(place(tmp_path / "alone", "digits"), expected)
    seconds, count, draw = time.perf_counter() - start, 6, random.Random(1)
    for i in range(count):
        folder = tmp_path / f"own-{i}"
        for moment in ((i + draw.random()) / count * seconds, None):
            with started(str(folder), "digits") as process:
                if moment is None:
                    assert process.wait() == 0
                else:
                    time.sleep(moment)
            if folder.exists():
                check_files(folder)
        check_end(place(folder, "digits"), expected)
