"""Table 1 of "Deep Neuroevolution": does the search earn its keep?

Printed: 0.70 for the base network, *sampled on the test set* (10,000 updates, tested every 500, the
best of it), 0.74 for the best member of the search, 0.72 with co-evolutionary selection, 0.75 for a
hierarchical ensemble of its selected members. What the paper does not ask, at the FLOPs of the same
seed's search:

* "base": the base network at the search's own recipe, tested once; and "random mutations": the same
  search, but members go on by chance.
* "largest alone": the largest member of the search, drawn anew and trained by itself, with a cosine
  and a learning rate of its own.
* "average", "greedy": ensembles that train nothing.

The published ensemble joins its members along the batch, in train mode; here they are joined for
each image, in eval mode, and only what stands on top of them is trained. Its rate is 3e-3; the
published 1e-5 moves no weight by more than 0.05 in 5,000 steps.

    gnomon run neuroevolution/table1 --preset quick --data PATH    17 core-minutes
    gnomon run neuroevolution/table1 --preset paper --data PATH    50 core-hours, an estimate

Quick: searches of 900 updates, 3 seeds; paper: 80,000, 5 seeds.

Result: see docs/results/neuroevolution-table1.md.
"""

from collections.abc import Mapping
from dataclasses import replace

from setting import CIFAR, RECIPE, sized

from gnomon.evolution import Best, CoEvolution, Settings, Tournament
from gnomon.lab.contest.contest import Alone, Contest, Ensemble, Entry, Search
from gnomon.lab.experiment import Size

MANY = 10_000  # epochs: the FLOPs of the search end a training before
COSINE = replace(RECIPE, shape="cosine", warmup=0.05, lr=3e-3, weight_decay=1e-2, optimizer="adamw")
BASE = "base, sampled on the test set"


def arms(size: Size) -> Mapping[str, Entry]:
    """The searches, what is made of their members, and their opponents."""
    search, co_evolution, top = settings(size), "co-evolution", int(size.numbers["top"])
    return {
        BASE: Alone(sized(RECIPE, size, size.numbers["sampled"]), sampled=True),
        "search": Search(Best(), search),
        "co-evolution": Search(CoEvolution(), search),
        "hierarchical": Ensemble(co_evolution, "hierarchical", steps=top),
        "average": Ensemble(co_evolution, "average"),
        "greedy": Ensemble(co_evolution, "greedy"),
        "random mutations": Search(
            Tournament(size=1), replace(search, rounds=4 * search.rounds), like="search"
        ),
        "base": Alone(sized(RECIPE, size, MANY), like="search"),
        "largest alone": Alone(sized(COSINE, size, MANY), like="search", network="largest"),
    }


def settings(size: Size) -> Settings:
    """N_i, N_j, K, M and the rounds, which are a size's epochs."""
    n = size.numbers
    return Settings(
        first_steps=int(n["first"]),
        steps=int(n["joint"]),
        keep=int(n["keep"]),
        size=int(n["members"]),
        rounds=size.epochs,
    )


EXPERIMENT = Contest(
    name="neuroevolution/table1",
    about="A search, its ensembles, and the same FLOPs without a search.",
    source="Painter, Deep Neuroevolution, table 1",
    arms=arms,
    presets={
        "quick": Size(
            epochs=4,
            numbers={
                "first": 300, "joint": 150, "keep": 2, "members": 6, "top": 300, "steps": 150,
                "sampled": 6,
            },
        ),
        "paper": Size(
            epochs=15,
            numbers={
                "first": 5000, "joint": 5000, "keep": 3, "members": 10, "top": 5000, "steps": 500,
                "sampled": 20,
            },
            seeds=range(5),
        ),
    },
    data=CIFAR,
    printed={BASE: 0.70, "search": 0.74, "co-evolution": 0.72, "hierarchical": 0.75},
    baseline="largest alone",
)  # fmt: skip
