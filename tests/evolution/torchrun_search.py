"""A search that torchrun starts in several processes; each writes what it holds in the end."""

import sys
from pathlib import Path

import torch
from small_search import SPACES, evolution, problem

from gnomon.evolution import Torchrun, search

torch.set_num_threads(1)

if __name__ == "__main__":
    place = Path(sys.argv[1])
    with Torchrun(seconds=120) as pool:
        for name in ("images", "vectors"):
            space = SPACES[name]
            run = evolution(space)
            rounds = search(run, problem(space), path=place / name, pool=pool)
            held = {
                "losses": [done.trained.losses for done in rounds],
                "tensors": run.state_dict()["tensors"],
                "scores": [m.score for m in run.members],
            }
            torch.save(held, place / f"{name}{pool.rank}.pt")
