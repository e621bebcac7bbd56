"""Selections: which members of a population go on to the next round."""

from gnomon.evolution.select.base import Results, Selection, pooled
from gnomon.evolution.select.best import Best
from gnomon.evolution.select.co_evolution import CoEvolution
from gnomon.evolution.select.pareto import Pareto
from gnomon.evolution.select.tournament import Tournament

__all__ = ["Best", "CoEvolution", "Pareto", "Results", "Selection", "Tournament", "pooled"]
