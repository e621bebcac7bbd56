"""gnomon makes neural networks larger without changing what they compute."""

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
from gnomon.groups import Group, Slot
from gnomon.grower import Grower
from gnomon.morphs import Widen
from gnomon.plan import Plan
from gnomon.receipt import Receipt
from gnomon.rules import R2R, Hybrid, Net2Net, NetMorph, RandPad, Rule

__version__ = "0.1.0"

__all__ = [
    "R2R",
    "BadCheckpoint",
    "CannotPreserve",
    "Group",
    "Grower",
    "GrowthError",
    "Hybrid",
    "InUse",
    "Net2Net",
    "NetMorph",
    "NoSuchGroup",
    "NotProved",
    "Plan",
    "RandPad",
    "Receipt",
    "Rule",
    "Slot",
    "Stale",
    "Unsupported",
    "Widen",
    "load",
    "save",
]
