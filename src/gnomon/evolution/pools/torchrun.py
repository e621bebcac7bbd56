"""Data-parallel training: every process is the same search, and computes a part of each batch.

torchrun --nproc-per-node 2 my_search.py

rank 0   draws member 4 and 32 examples ── computes 1..16 ──┐ mean of the ┌── the same step
rank 1   draws member 4 and 32 examples ── computes 17..32 ─┘ gradients   └── the same step
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

import torch
import torch.distributed as dist
import torch.utils._pytree as pytree
from torch import Tensor

from gnomon.evolution.errors import PoolError
from gnomon.evolution.evolution import Evolution
from gnomon.evolution.joint.problem import Batch, examples_in
from gnomon.evolution.pools.base import R, Search
from gnomon.evolution.pools.joint_norm import JointNorms
from gnomon.evolution.population.member import Member
from gnomon.evolution.rounds import Round, play
from gnomon.evolution.saving import state_of

_ENVIRONMENT = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Torchrun:
    """The processes that torchrun has started, of which this is one.

    Batches are divided, gradients averaged, BatchNorms see the whole batch: up to rounding, what
    one process computes. Members are evaluated side by side. After every round the processes are
    compared, bit by bit.

    A problem's loss must be a mean over examples, and its batches must divide by the processes.
    seconds: how long a process waits for another one before it gives up.
    """

    def __init__(self, *, seconds: float = 1800.0) -> None:
        self._timeout = timedelta(seconds=seconds)
        self._begun = False
        self.rank, self.world = 0, 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and shows what happens."""
        return self.rank == 0

    def __enter__(self) -> Self:
        if not dist.is_initialized():
            self._begin()
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        return self

    def _begin(self) -> None:
        missing = [name for name in _ENVIRONMENT if name not in os.environ]
        if missing:
            raise PoolError(
                f"the pool torchrun cannot be used: this process was not started by torchrun "
                f"({', '.join(missing)} not set). Start it with torchrun --nproc-per-node N, or "
                f"use another pool"
            )
        here, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
        # NCCL refuses two processes on one GPU; gloo takes them through the CPU.
        backend = "cpu:gloo,cuda:nccl" if gpus >= here else "gloo"
        try:
            dist.init_process_group(backend, timeout=self._timeout)
        except (RuntimeError, ValueError) as fault:
            raise PoolError(
                f"the pool torchrun cannot be used: the processes do not find each other at "
                f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']} ({fault})"
            ) from fault
        self._begun = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._begun:
            dist.destroy_process_group()
            self._begun = False

    def device(self, device: torch.device) -> torch.device:
        """The GPU that is this process's, of several; the same for a CPU."""
        if device.type != "cuda":
            return device
        own = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
        torch.cuda.set_device(own)
        return own

    # ---- what is asked of a pool

    def rounds(self, searches: Sequence[Search]) -> list[Round]:
        """One after the other, each with all processes."""
        return [self._round(evolution, problem) for evolution, problem in searches]

    def _round(self, evolution: Evolution, problem: Any) -> Round:
        def over(task: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
            return self.map(task, [(item,) for item in items])

        done = play(evolution, problem, ranks=self, over=over)
        self.check(evolution)
        return done

    def map(self, task: Callable[..., R], calls: Sequence[tuple[Any, ...]]) -> list[R]:
        """Every process does its share; all get all results.

        An error is raised where it happened, and as a PoolError in the others.
        """

        def share() -> dict[int, R]:
            return {i: task(*calls[i]) for i in range(self.rank, len(calls), self.world)}

        found = {i: one for part in self._together(share) for i, one in part.items()}
        return [found[i] for i in range(len(calls))]

    def agreed(self, make: Callable[[], R]) -> R:
        """What it gives in the first process, in all of them; errors as in `map`."""
        [value] = self._together(lambda: [make()] if self.first else [])[0]
        return value

    def check(self, evolution: Evolution) -> None:
        """Raise PoolError if the processes do not hold the same search, bit for bit."""
        found = self._from_all(_fingerprint(evolution))
        if len(set(found)) > 1:
            raise PoolError(
                f"the search cannot go on: after round {evolution.round - 1} its processes differ "
                f"({', '.join(found)}), so something draws or computes otherwise on each. Go back "
                f"to the last checkpoint; see that training data come from the generator they get"
            )

    def _together(self, make: Callable[[], R]) -> list[R]:
        """What it gives in each process; or its error, which must not leave the others waiting."""
        value, fault = None, None
        try:
            value = make()
        except Exception as error:  # whatever it is
            fault = error
        # As text: not every error can be made again from what it holds.
        said = None if fault is None else f"{type(fault).__name__}: {fault}"
        found = self._from_all((value, said))
        if fault is not None:
            raise fault
        for rank, (_, text) in enumerate(found):
            if text is not None:
                raise PoolError(f"the search cannot go on: process {rank} has failed ({text})")
        return [one for one, _ in found]  # type: ignore[misc]

    def _from_all(self, value: R) -> list[R]:
        held: list[Any] = [None] * self.world
        dist.all_gather_object(held, value)
        return held

    # ---- what is asked of ranks

    def part(self, batch: Batch) -> Batch:
        """The examples that are this process's: rows of every tensor."""
        count = examples_in(batch[0])
        if count % self.world:
            raise PoolError(
                f"a batch of {count} examples cannot be divided among {self.world} processes: use "
                f"{-(-count // self.world) * self.world}"
            )
        rows = slice(self.rank * (count // self.world), (self.rank + 1) * (count // self.world))

        def own(x: Tensor) -> Tensor:
            return x[rows] if x.dim() and len(x) == count else x

        divided: Batch = pytree.tree_map_only(Tensor, own, batch)
        return divided

    def average(self, member: Member) -> None:
        """One sum over all gradients, and over whether there is one."""
        learned = [p for p in member.parameters.values() if p.requires_grad]
        if not learned or self.world == 1:
            return
        there = torch.tensor([p.grad is not None for p in learned], device=learned[0].device)
        flat = [
            (torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in learned
        ]  # fmt: skip
        joined = torch.cat([there.to(flat[0].dtype), *flat])
        dist.all_reduce(joined)
        counts, *sums = torch.split(joined, [len(learned), *map(len, flat)])
        for parameter, count, total in zip(learned, counts.tolist(), sums, strict=True):
            if count:
                parameter.grad = (total / self.world).view_as(parameter).to(parameter.dtype)

    def mean(self, values: Mapping[int, float]) -> dict[int, float]:
        """Each value's mean over the processes, which all have the same keys."""
        totals = self._total(torch.tensor(list(values.values()), dtype=torch.float64, device="cpu"))
        means = (totals / self.world).tolist()
        return dict(zip(values, means, strict=True))

    def clock(self) -> float:
        """The first process's."""
        held = torch.tensor(time.perf_counter(), dtype=torch.float64, device="cpu")
        dist.broadcast(held, src=0)
        return float(held)

    def joined(self) -> AbstractContextManager[object]:
        """BatchNorms see what all processes hold."""
        return JointNorms(self._total)

    def _total(self, x: Tensor) -> Tensor:
        total = x.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


def _fingerprint(evolution: Evolution) -> str:
    """Of all tensors and numbers, as in a checkpoint."""
    state, digest = state_of(evolution), hashlib.blake2b(digest_size=8)
    digest.update(json.dumps(json.loads(state["meta"]), sort_keys=True).encode())
    for name in sorted(state["tensors"]):
        x = state["tensors"][name].cpu().contiguous()
        digest.update(f"{name} {x.dtype} {tuple(x.shape)}".encode())
        digest.update(x.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
