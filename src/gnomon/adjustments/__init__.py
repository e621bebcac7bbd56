"""What happens to the optimizer and the learning rate at a growth: one option per file."""

from gnomon.adjustments.adjust import adjust, check_adjustments
from gnomon.adjustments.base import Adjustment, After, Growth, in_order
from gnomon.adjustments.by_gradient import ByGradient
from gnomon.adjustments.by_size import BySize
from gnomon.adjustments.divide_rate import DivideRate
from gnomon.adjustments.keep import Keep
from gnomon.adjustments.new_group import NewGroup
from gnomon.adjustments.new_weights import NewWeights
from gnomon.adjustments.pace import Pace, rates
from gnomon.adjustments.reset_moments import ResetMoments
from gnomon.adjustments.rewarm import Rewarm

__all__ = [
    "Adjustment",
    "After",
    "ByGradient",
    "BySize",
    "DivideRate",
    "Growth",
    "Keep",
    "NewGroup",
    "NewWeights",
    "Pace",
    "ResetMoments",
    "Rewarm",
    "adjust",
    "check_adjustments",
    "in_order",
    "rates",
]
