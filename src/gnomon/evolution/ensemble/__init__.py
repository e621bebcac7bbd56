"""Several members as one network: averaged, chosen greedily, or with a trained network on top."""

from gnomon.evolution.ensemble.average import Average
from gnomon.evolution.ensemble.fit import ADAM, fit
from gnomon.evolution.ensemble.frozen import Frozen
from gnomon.evolution.ensemble.greedy import greedy, right_of
from gnomon.evolution.ensemble.hierarchical import Hierarchical

__all__ = [
    "ADAM",
    "Average",
    "Frozen",
    "Hierarchical",
    "fit",
    "greedy",
    "right_of",
]
