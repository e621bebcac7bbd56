"""Neuroevolution: a search whose members share their parameters (paper 002)."""

from gnomon.evolution.budget import Budget, Spent, measured_memory
from gnomon.evolution.errors import Diverged, NoMutation, OverBudget, SearchError
from gnomon.evolution.evolution import Evolution
from gnomon.evolution.export import export
from gnomon.evolution.lineage import Birth, Lineage
from gnomon.evolution.member import Member, Size
from gnomon.evolution.mutation import Mutation, Space
from gnomon.evolution.mutations import (
    AddBranch,
    DeepenStage,
    InsertBlock,
    WidenGroup,
    WidenStage,
)
from gnomon.evolution.optimizer import SharedOptimizer
from gnomon.evolution.problem import Problem, from_iterable, from_tensors
from gnomon.evolution.search import Round, search
from gnomon.evolution.select import Best, CoEvolution, Pareto, Results, Selection, Tournament
from gnomon.evolution.settings import Settings
from gnomon.evolution.spaces import AnyModel, StageNetwork, Stages
from gnomon.evolution.training import Joint, Trained, evaluate, recalibrate

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
    "InsertBlock",
    "Joint",
    "Lineage",
    "Member",
    "Mutation",
    "NoMutation",
    "OverBudget",
    "Pareto",
    "Problem",
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
]
