"""Algorithm 1: round after round, on whatever pool, saved in between."""

from __future__ import annotations

import os
from collections.abc import Iterator

from gnomon.evolution.evolution import Evolution
from gnomon.evolution.islands.islands import Islands
from gnomon.evolution.joint.problem import Problem
from gnomon.evolution.pools.base import Pool
from gnomon.evolution.pools.here import Here
from gnomon.evolution.rounds import Round


def search(
    evolution: Evolution,
    problem: Problem,
    *,
    path: str | os.PathLike[str] | None = None,
    pool: Pool | None = None,
) -> Iterator[Round]:
    """Go on until the search is done, a round at a time.

    path: where the search is saved after each round; `evolution.load(path)` goes on from there.
    pool: where it runs, by default in this process; the population does not depend on it.
    Raises Diverged, PoolError.
    """
    for [done] in search_islands(evolution, problem, path=path, pool=pool):
        yield done


def search_islands(
    searched: Islands | Evolution,
    problem: Problem,
    *,
    path: str | os.PathLike[str] | None = None,
    pool: Pool | None = None,
) -> Iterator[list[Round]]:
    """Go on until all islands are done: a round of each that is not, side by side if the pool can.

    Parameters and errors as for `search`.
    """
    pool = pool or Here()
    while not searched.done:
        searched.begin()
        rounds = pool.rounds([(island, problem) for island in searched.waiting])
        if path is not None and pool.first:
            searched.save(path)
        yield rounds
