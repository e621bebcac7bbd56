"""Many runs on one machine: in processes, each arm after the one it starts from.

    teacher 0 ━━━━┓                     waiting -> running -> finished
    teacher 1 ━━━━┃━━┓                         \\         \\-> failed: the others go on
    grown   0     ┗━━━━━━━                      \\-> skipped: what it starts from failed
    grown   1        ┗━━━━━━━

A process that is killed, and one whose parent is, loses at most the epoch in progress.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Protocol

import torch

from gnomon.errors import GrowthError
from gnomon.lab.errors import LabError
from gnomon.lab.experiment import Begun
from gnomon.lab.running.orders import Order, Run
from gnomon.lab.running.runs import Result
from gnomon.lab.training.train import Measured, Round

POLL = 0.2  # seconds between two looks at what the processes have sent
ERROR = "error.txt"


@dataclass(frozen=True)
class News:
    """An epoch of a run is over; how often the network grew after it."""

    run: Run
    point: Measured
    growths: int


@dataclass(frozen=True)
class Failure:
    """Why a run could not go on."""

    why: str


class Channel(Protocol):
    """How news come from the processes."""

    def put(self, item: News, /) -> None:
        """Send."""

    def get(self) -> News:
        """Receive; waits for the next."""

    def empty(self) -> bool:
        """Whether there is nothing to receive."""


class Watch(Protocol):
    """Who wants to see the runs."""

    def started(self, run: Run) -> None:
        """A run begins, or goes on."""

    def measured(self, news: News) -> None:
        """An epoch is over."""

    def finished(self, run: Run, result: Result) -> None:
        """A run is complete."""

    def failed(self, run: Run, why: str) -> None:
        """A run cannot go on."""

    def skipped(self, run: Run, why: str) -> None:
        """A run cannot begin."""


Crew = Callable[[int], AbstractContextManager[tuple[Executor, Channel]]]


@dataclass
class Outcome:
    """What became of the runs."""

    finished: dict[Run, Result] = field(default_factory=dict)
    failed: dict[Run, str] = field(default_factory=dict)
    skipped: dict[Run, str] = field(default_factory=dict)


@contextmanager
def processes(count: int) -> Iterator[tuple[Executor, Channel]]:
    """So many fresh processes; on an error, or Ctrl-C, they are stopped at once."""
    context = multiprocessing.get_context("spawn")
    channel = context.SimpleQueue()
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(count, context, initializer=_begin, initargs=(channel,))
    try:
        yield pool, channel
    except BaseException:
        for child in set(multiprocessing.active_children()) - before:
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def train(
    order: Order,
    arms: Mapping[str, Begun],
    watch: Watch,
    *,
    jobs: int,
    crew: Crew = processes,
) -> Outcome:
    """Run these arms with all seeds of the order. Finished runs are read back.

    Raises LabError if a process is killed; a run that fails is in the outcome.
    """
    outcome = Outcome()
    # All arms of a seed before the next seed: a stop leaves whole comparisons behind.
    waiting = [Run(arm, seed) for seed in order.seeds for arm in arms]
    running: dict[Future[Result | Failure], Run] = {}
    jobs = min(jobs, len(waiting))
    try:
        with crew(jobs) as (pool, channel):
            while waiting or running:
                _skip(arms, waiting, outcome, watch)
                for run in _ready(arms, waiting, outcome)[: jobs - len(running)]:
                    waiting.remove(run)
                    watch.started(run)
                    running[pool.submit(work, order, run)] = run
                done, _ = wait(running, timeout=POLL, return_when=FIRST_COMPLETED)
                while not channel.empty():
                    watch.measured(channel.get())
                for future in filter(done.__contains__, tuple(running)):  # a set has no order
                    got = future.result()
                    _close(running.pop(future), got, outcome, watch)
    except BrokenProcessPool:
        raise LabError(
            f"A process was killed from outside, perhaps for want of memory, while it ran one of: "
            f"{'; '.join(map(str, running.values()))}. All runs are kept as they were after their "
            f"last epoch: go on with --resume{', with fewer --jobs' if jobs > 1 else ''}."
        ) from None
    return outcome


def _ready(arms: Mapping[str, Begun], waiting: Sequence[Run], outcome: Outcome) -> list[Run]:
    def begun(run: Run) -> bool:
        start = arms[run.arm].start
        return start is None or Run(start.arm, run.seed) in outcome.finished

    return [run for run in waiting if begun(run)]


def _skip(arms: Mapping[str, Begun], waiting: list[Run], outcome: Outcome, watch: Watch) -> None:
    """Give up what starts from a run that failed."""
    for run in tuple(waiting):
        start = arms[run.arm].start
        before = start and Run(start.arm, run.seed)
        if before in outcome.failed or before in outcome.skipped:
            waiting.remove(run)
            outcome.skipped[run] = f"it starts from '{before}', which did not finish"
            watch.skipped(run, outcome.skipped[run])


def _close(run: Run, got: Result | Failure, outcome: Outcome, watch: Watch) -> None:
    if isinstance(got, Failure):
        outcome.failed[run] = got.why
        watch.failed(run, got.why)
    else:
        outcome.finished[run] = got
        watch.finished(run, got)


_channel: Channel | None = None  # of this process, once it is a worker


def _begin(channel: Channel) -> None:
    """Make this process a worker: Ctrl-C is its parent's to handle, and it does not outlive it."""
    global _channel
    _channel = channel
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_outlive, args=(parent,), daemon=True).start()


def _outlive(parent: BaseProcess) -> None:
    """End this process when its parent is gone, however that went."""
    parent.join()
    os._exit(1)


def work(order: Order, run: Run) -> Result | Failure:
    """Run one run in this process."""

    def tell(round: Round) -> None:
        if _channel is not None:
            _channel.put(News(run, round.point, len(round.growths)))

    place = order.runs.place(run.arm, run.seed)
    (place / ERROR).unlink(missing_ok=True)
    try:
        prepare(order)
        return order.runs.run(run.arm, run.seed, order.task(run.seed), tell=tell)
    except (GrowthError, LabError) as error:
        return Failure(str(error))
    except Exception as error:  # anything in a network or a rule of the user's own
        return Failure(f"{type(error).__name__}: {error}.{_kept(place)}")


def _kept(place: Path) -> str:
    """Keep the traceback of the error at hand beside its run; say where."""
    try:
        (place / ERROR).write_text(traceback.format_exc(), encoding="utf-8")
    except OSError:
        return ""
    return f" See '{place / ERROR}'."


def prepare(order: Order) -> None:
    """Set what a repeated run depends on: the number of threads, algorithms that repeat."""
    torch.set_num_threads(order.declared.threads)
    if order.cuda:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
