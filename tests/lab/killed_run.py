"""Processes to kill: runs that are forked from one that has imported everything, or start anew.

    python killed_run.py FOLDER NAME     run `NAME` of ARMS to its end
    python killed_run.py                 the same for each line on stdin, in a new process:
                                         {"folder", "name", "die", "kill_after"}; answers with
                                         "ended" or "killed" or "failed", and the seconds it took

die:        where the process kills itself, a name of POINTS, and the how-many-th time, from 1.
kill_after: seconds after which it is killed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tensorboard.summary.writer.event_file_writer import RecordWriter
from tiny_brightness import brightness_task
from tiny_runs import CPU, RECIPE, dropout_net, two_growths

import gnomon.growth
from gnomon import checkpoint
from gnomon.lab.data import tasks
from gnomon.lab.data.sources import Images
from gnomon.lab.experiment import Arm
from gnomon.lab.running.record import METRICS, Record
from gnomon.lab.running.runs import Bench
from gnomon.lab.training.recipe import Recipe
from gnomon.models import DigitsNet
from gnomon.morphs import Deepen, Widen
from gnomon.schedule import At


def digits_net(task: tasks.Task) -> DigitsNet:
    return DigitsNet(2)


ARMS = {
    "tiny": Arm(RECIPE, dropout_net, schedule=two_growths(), snapshots=True),
    "digits": Arm(
        Recipe(epochs=4, batch=64, optimizer="amsgrad", augment=True),
        digits_net,
        schedule=At(Widen("*", by=2), epoch=1) + At(Deepen("stage1"), epoch=2),
        snapshots=True,
    ),
}
TASKS = {"tiny": brightness_task, "digits": lambda: tasks.load("digits")}


def run(folder: Path, name: str, task: tasks.Task) -> None:
    Bench(ARMS, Images(name), folder, CPU).run(name, 0, task)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(real: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **options: die()


def behind(real: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> None:
        real(*args, **options)
        die()

    return call


def half_a_file(real: Callable[..., Any]) -> Callable[..., Any]:
    """Of functions that write something to a path: leave the first half of it."""

    def call(content: Any, path: Any, *args: Any, **options: Any) -> None:
        real(content, path, *args, **options)
        os.truncate(path, os.path.getsize(path) // 2)
        die()

    return call


def half_a_line(real: Callable[..., Any]) -> Callable[..., Any]:
    def call(record: Record, **values: Any) -> None:
        real(record, **values)
        os.truncate(record.folder / METRICS, os.path.getsize(record.folder / METRICS) - 9)
        die()

    return call


def half_an_event(real: Callable[..., Any]) -> Callable[..., Any]:
    def call(writer: Any, content: bytes) -> None:
        real(writer, content)
        writer.flush()
        file = writer._writer.filename
        os.truncate(file, os.path.getsize(file) - 5)
        die()

    return call


POINTS: dict[str, tuple[Any, str, Callable[..., Callable[..., Any]]]] = {
    "before a checkpoint": (torch, "save", before),
    "in a checkpoint": (torch, "save", half_a_file),
    "before a rename": (os, "replace", before),
    "behind a rename": (os, "replace", behind),
    "in a line": (Record, "write", half_a_line),
    "behind a line": (Record, "write", behind),
    "in a snapshot": (checkpoint, "save_file", half_a_file),
    "before the weights grow": (gnomon.growth, "operate", before),
    "behind the weights grew": (gnomon.growth, "operate", behind),
    "in an event": (RecordWriter, "write", half_an_event),
}


def set_trap(point: str, count: int) -> None:
    owner, name, how = POINTS[point]
    real, calls = getattr(owner, name), iter(range(1, 10**6))
    deadly = how(real)

    def call(*args: Any, **options: Any) -> Any:
        return (deadly if next(calls) == count else real)(*args, **options)

    setattr(owner, name, call)


def serve() -> None:
    known: dict[str, tasks.Task] = {}
    for line in sys.stdin:
        order = json.loads(line)
        name = order["name"]
        known.setdefault(name, TASKS[name]())
        child = os.fork()
        if child == 0:
            if order["die"]:
                set_trap(*order["die"])
            try:
                run(Path(order["folder"]), name, known[name])
            except BaseException as error:
                print(repr(error), file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        start = time.perf_counter()
        status = ended(child, order["kill_after"])
        print(status, time.perf_counter() - start, flush=True)


def ended(child: int, kill_after: float | None) -> str:
    """Wait for a process, and kill it when it is time; its id is its own until it is waited for."""
    start, done, status = time.perf_counter(), 0, 0
    while not done:
        done, status = os.waitpid(child, os.WNOHANG)
        if not done and kill_after is not None and time.perf_counter() - start > kill_after:
            os.kill(child, signal.SIGKILL)
            done, status = os.waitpid(child, 0)
        time.sleep(0.005)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return "killed"
    return "failed" if status else "ended"


if __name__ == "__main__":
    torch.set_num_threads(1)
    if len(sys.argv) == 1:
        serve()
    else:
        run(Path(sys.argv[1]), sys.argv[2], TASKS[sys.argv[2]]())
