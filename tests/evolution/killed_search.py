"""A search that saves itself after each round, for a test that kills it again and again."""

import sys
from dataclasses import replace
from pathlib import Path

from small_search import SHORT, evolution, problem

from gnomon.evolution import search


def made():
    return evolution(settings=replace(SHORT, first_steps=300, steps=300, rounds=30))


def task():
    return problem()


if __name__ == "__main__":
    path = Path(sys.argv[1])
    run = made()
    if path.exists():
        run.load(path)
    for _ in search(run, task(), path=path):
        pass
