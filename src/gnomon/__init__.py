"""gnomon makes neural networks larger without changing what they compute."""

from gnomon.adding.zero import start_at_zero
from gnomon.adjustments import (
    ByGradient,
    BySize,
    DivideRate,
    Keep,
    NewGroup,
    NewWeights,
    ResetMoments,
    Rewarm,
    adjust,
)
from gnomon.analysis.groups import Group, Slot
from gnomon.blocks import R2RBlock, Residual
from gnomon.checkpoint import load, save
from gnomon.errors import (
    BadCheckpoint,
    CannotPreserve,
    GrowthError,
    InUse,
    NoSuchGroup,
    NotProved,
    Stale,
    Unsupported,
)
from gnomon.grower import Grower
from gnomon.morphs import Branch, Deepen, Enlarge, Factor, Fold, Repeat, Widen
from gnomon.planning.plan import Plan
from gnomon.receipt import Receipt
from gnomon.rules import R2R, Hybrid, Isometry, Net2Net, NetMorph, RandPad, Rule
from gnomon.schedule import At, Every, OnPlateau, Timeline
from gnomon.share import separate, share
from gnomon.simulation import simulate

__version__ = "0.1.0"

__all__ = [
    "R2R",
    "At",
    "BadCheckpoint",
    "Branch",
    "ByGradient",
    "BySize",
    "CannotPreserve",
    "Deepen",
    "DivideRate",
    "Enlarge",
    "Every",
    "Factor",
    "Fold",
    "Group",
    "Grower",
    "GrowthError",
    "Hybrid",
    "InUse",
    "Isometry",
    "Keep",
    "Net2Net",
    "NetMorph",
    "NewGroup",
    "NewWeights",
    "NoSuchGroup",
    "NotProved",
    "OnPlateau",
    "Plan",
    "R2RBlock",
    "RandPad",
    "Receipt",
    "Repeat",
    "ResetMoments",
    "Residual",
    "Rewarm",
    "Rule",
    "Slot",
    "Stale",
    "Timeline",
    "Unsupported",
    "Widen",
    "adjust",
    "load",
    "save",
    "separate",
    "share",
    "simulate",
    "start_at_zero",
]
