"""How new weights are filled: one small class per method."""

from gnomon.rules.base import Law, Rule
from gnomon.rules.hybrid import Hybrid
from gnomon.rules.isometry import Isometry
from gnomon.rules.net2net import Net2Net
from gnomon.rules.netmorph import NetMorph
from gnomon.rules.r2r import R2R
from gnomon.rules.randpad import RandPad

__all__ = ["R2R", "Hybrid", "Isometry", "Law", "Net2Net", "NetMorph", "RandPad", "Rule"]
