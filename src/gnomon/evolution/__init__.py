"""Neuroevolution: a search whose members share their parameters (paper 002)."""

from gnomon.evolution.budget import Budget, Spent, measured_memory
from gnomon.evolution.errors import Diverged, NoMutation, OverBudget, PoolError, SearchError
from gnomon.evolution.evolution import Evolution
from gnomon.evolution.islands.islands import Islands
from gnomon.evolution.joint.problem import Problem, from_iterable, from_tensors
from gnomon.evolution.joint.training import Joint, Trained, evaluate, recalibrate
from gnomon.evolution.mutations import (
    AddBranch,
    DeepenStage,
    InsertBlock,
    WidenGroup,
    WidenStage,
)
from gnomon.evolution.pools import Here, Pool, Ray, Torchrun
from gnomon.evolution.population.export import export
from gnomon.evolution.population.lineage import Birth, Lineage, Origin
from gnomon.evolution.population.member import Member, Size
from gnomon.evolution.population.mutation import Mutation, Space
from gnomon.evolution.population.optimizer import SharedOptimizer
from gnomon.evolution.rounds import Round
from gnomon.evolution.search import search, search_islands
from gnomon.evolution.select import Best, CoEvolution, Pareto, Results, Selection, Tournament
from gnomon.evolution.settings import Settings
from gnomon.evolution.spaces import AnyModel, StageNetwork, Stages

__all__ = [
    "AddBranch",
    "AnyModel",
    "Best",
    "Birth",
    "Budget",
    "CoEvolution",
    "DeepenStage",
    "Diverged",
    "Evolution",
    "Here",
    "InsertBlock",
    "Islands",
    "Joint",
    "Lineage",
    "Member",
    "Mutation",
    "NoMutation",
    "Origin",
    "OverBudget",
    "Pareto",
    "Pool",
    "PoolError",
    "Problem",
    "Ray",
    "Results",
    "Round",
    "SearchError",
    "Selection",
    "Settings",
    "SharedOptimizer",
    "Size",
    "Space",
    "Spent",
    "StageNetwork",
    "Stages",
    "Torchrun",
    "Tournament",
    "Trained",
    "WidenGroup",
    "WidenStage",
    "evaluate",
    "export",
    "from_iterable",
    "from_tensors",
    "measured_memory",
    "recalibrate",
    "search",
    "search_islands",
]
