"""Search spaces: which networks there are."""

from gnomon.evolution.spaces.any_model import AnyModel
from gnomon.evolution.spaces.stages import StageNetwork, Stages

__all__ = ["AnyModel", "StageNetwork", "Stages"]
