"""A Ray cluster as a pool: populations train side by side, and so are members evaluated."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import torch

from gnomon.evolution.blueprint import Blueprint
from gnomon.evolution.errors import PoolError
from gnomon.evolution.joint.problem import Problem
from gnomon.evolution.pools.apart import (
    Manner,
    judged_apart,
    recipe_of,
    state_on_cpu,
    trained_apart,
)
from gnomon.evolution.pools.base import R, Search
from gnomon.evolution.pools.dialling import check_answers
from gnomon.evolution.rounds import Round, told
from gnomon.evolution.saving import restore

_CONSTANT = (Blueprint, Problem)  # sent once, not with each task


class Ray:
    """Workers of a Ray cluster; without an address, of one that is begun on this machine.

        here       state ──┬── island 1: ask, train ──┬── state ──┬── member 4: evaluate ──┬── tell
        workers            └── island 2: ask, train ──┘           ├── member 7: evaluate ──┤
                                                                  └── ...                ──┘

    One population trains on one worker, since each of its steps changes what the next one shares.
    A worker that is lost costs its tasks, which are done again. The population is that of a search
    in this process, bit for bit, if the workers' machines are of its kind.

    address: `host:port`, `ray://host:port` or `auto`; gnomon must be installed there as it is here.
    workers: how many tasks run at once on this machine, if the cluster is begun here.
    retries: how often a task is done again whose worker was lost.
    seconds: how long an address may take to answer.
    """

    first = True

    def __init__(
        self,
        address: str | None = None,
        *,
        workers: int | None = None,
        retries: int = 3,
        seconds: float = 60.0,
    ) -> None:
        if workers is not None and workers < 1:
            raise ValueError(f"workers={workers!r} must be 1 or more")
        self._address, self._workers = address, workers
        self._retries, self._seconds = retries, seconds
        self._ray: Any = None
        self._begun = False
        self._sent: dict[int, tuple[object, Any]] = {}

    def __enter__(self) -> Self:
        self._ray = _library()
        if self._ray.is_initialized():
            return self
        if self._address is not None:
            check_answers(self._address, self._seconds)
        options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
        if self._address is None:
            threads, cores = torch.get_num_threads(), os.cpu_count() or 1
            workers = self._workers or max(1, cores // threads)
            options |= {"num_cpus": workers * threads, "include_dashboard": False}
        try:
            with _same_path():
                self._ray.init(self._address, **options)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as fault:
            where = "on this machine" if self._address is None else f"at '{self._address}'"
            raise PoolError(f"the pool ray cannot be used: {where} it says {fault}") from fault
        self._begun = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._sent.clear()
        if self._begun:
            self._ray.shutdown()
            self._begun = False

    def device(self, device: torch.device) -> torch.device:
        """The same: Ray shows each task a GPU of its own as the first one."""
        return device

    def agreed(self, make: Callable[[], R]) -> R:
        """What it gives: workers decide nothing."""
        return make()

    def rounds(self, searches: Sequence[Search]) -> list[Round]:
        """All populations train at once, then all members are evaluated at once."""
        gpu = any(e.device is not None and e.device.type == "cuda" for e, _ in searches)
        back = self._map(
            trained_apart, [(e.blueprint, p, state_on_cpu(e)) for e, p in searches], gpu
        )
        for (evolution, _), (state, _) in zip(searches, back, strict=True):
            restore(evolution, state)
        calls = [(e.blueprint, p, recipe_of(e, m), e.key) for e, p in searches for m in e.members]
        judged = iter(self._map(judged_apart, calls, gpu))
        rounds = []
        for (evolution, _), (_, trained) in zip(searches, back, strict=True):
            found = [next(judged) for _ in evolution.members]
            # What machines were busy with it, as in one process: it does not depend on how many.
            seconds = trained.spent.seconds + sum(one.seconds for one in found)
            rounds.append(told(evolution, trained, found, seconds))
        return rounds

    def map(self, task: Callable[..., R], calls: Sequence[tuple[Any, ...]]) -> list[R]:
        """Side by side, a CPU per thread that a task takes."""
        return self._map(task, calls, gpu=False)

    def _map(self, task: Callable[..., R], calls: Sequence[tuple[Any, ...]], gpu: bool) -> list[R]:
        manner = Manner.here()
        self._check_room(manner.threads, gpu)
        remote = self._ray.remote(
            num_cpus=manner.threads, num_gpus=int(gpu), max_retries=self._retries
        )(_done)
        with self._told():
            waiting = [remote.remote(manner, task, *map(self._argument, call)) for call in calls]
            found: list[R] = self._ray.get(waiting)
            return found

    def _argument(self, value: object) -> object:
        """What is the same in all rounds is put where all workers reach it, once."""
        if not isinstance(value, _CONSTANT):
            return value
        if id(value) not in self._sent:  # held, so that its id stays its own
            self._sent[id(value)] = (value, self._ray.put(value))
        return self._sent[id(value)][1]

    def _check_room(self, threads: int, gpu: bool) -> None:
        """Ray itself would wait for ever for a machine that is large enough."""
        nodes = [n["Resources"] for n in self._ray.nodes() if n["Alive"]]
        if not any(n.get("CPU", 0) >= threads and n.get("GPU", 0) >= gpu for n in nodes):
            gpus = " and a GPU" if gpu else ""
            raise PoolError(
                f"the pool ray cannot be used: a task takes {threads} CPUs{gpus}, as here, and no "
                f"machine of the cluster has them. Use fewer threads (OMP_NUM_THREADS)"
            )

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Raise what a task has raised; what became of machines, as PoolError."""
        faults = self._ray.exceptions
        try:
            yield
        except faults.RayTaskError as error:
            if not isinstance(error.cause, faults.RayError):
                raise error.cause from error
            raise PoolError(
                f"the search cannot go on: a worker cannot read its task ({error.cause}). Modules "
                f"that the problem and the space come from must be installed on all machines"
            ) from error
        except (faults.RayError, ConnectionError) as error:
            raise PoolError(
                f"the search cannot go on: a task was lost with its worker, and again when it was "
                f"repeated ({type(error).__name__}: {error}). What was saved is whole: see to the "
                f"cluster, then go on from there"
            ) from error


@contextmanager
def _same_path() -> Iterator[None]:
    """Workers that are begun meanwhile on this machine import what this process can import."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _done(manner: Manner, task: Callable[..., R], *arguments: Any) -> R:
    """On the worker."""
    manner.take()
    return task(*arguments)


def _library() -> Any:
    # A local cluster counts only itself, and tells nobody.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise PoolError(
            "the pool ray needs ray: run pip install 'gnomon[search]', or use another pool"
        ) from None
