"""A contest that takes seconds, and its file to run: for tests."""

from gnomon.evolution import Best, CoEvolution, Settings, Tournament
from gnomon.lab.contest.bench import ContestBench
from gnomon.lab.contest.contest import Alone, Ensemble, Search
from gnomon.lab.data.sources import Images
from gnomon.lab.training.machine import Machine
from gnomon.lab.training.recipe import Recipe

RECIPE = Recipe(99, batch=16, lr=1e-2, optimizer="adam", shape="constant", warmup=0, steps=4)
FEW = Settings(first_steps=6, steps=6, keep=2, size=3, rounds=2)
MANY = Settings(first_steps=6, steps=6, keep=2, size=3, rounds=8)


def search(select=None, settings=FEW, like=None):
    return Search(select or Best(), settings, like, batch=16)


ARMS = {
    "sampled": Alone(Recipe(3, batch=16, lr=1e-2, steps=4), sampled=True),
    "search": search(),
    "co-evolution": search(CoEvolution()),
    "hierarchical": Ensemble("co-evolution", "hierarchical", steps=5, batch=16),
    "average": Ensemble("co-evolution", "average"),
    "greedy": Ensemble("co-evolution", "greedy"),
    "random": search(Tournament(1), MANY, like="search"),
    "base": Alone(RECIPE, like="search"),
    "largest": Alone(RECIPE, like="search", network="largest"),
}


def bench(folder, arms=ARMS):
    return ContestBench(arms, Images("brightness"), folder, Machine("cpu"))


FILE = """
from gnomon.evolution import Best, Settings
from gnomon.lab.contest.contest import Alone, Contest, Ensemble, Search
from gnomon.lab.data.sources import Images
from gnomon.lab.experiment import Size
from gnomon.lab.training.recipe import Recipe

def arms(size):
    few = Settings(first_steps=4, steps=4, keep=2, size=3, rounds=size.epochs)
    return {
        "search": Search(Best(), few, batch=16),
        "average": Ensemble("search", "average"),
        "alone": Alone(Recipe(99, batch=16, steps=4), like="search", network="largest"),
    }

def contest(arms=arms, **changes):
    return Contest(**{
        "name": "duel", "about": "A search against one network.", "source": "nobody, table 0",
        "arms": arms, "presets": {"quick": Size(1, (0, 1))}, "data": Images("brightness"),
        "printed": {"search": 0.9}, "baseline": "alone",
    } | changes)
"""
DECLARED = "\nEXPERIMENT = contest()\n"
