"""What changes: one class per morph."""

from gnomon.morphs.branch import Branch
from gnomon.morphs.deepen import Deepen
from gnomon.morphs.enlarge import Enlarge
from gnomon.morphs.factor import Factor
from gnomon.morphs.fold import Fold
from gnomon.morphs.repeat import Repeat
from gnomon.morphs.replicate import Replicate
from gnomon.morphs.upcycle import Upcycle
from gnomon.morphs.widen import Widen

__all__ = [
    "Branch",
    "Deepen",
    "Enlarge",
    "Factor",
    "Fold",
    "Repeat",
    "Replicate",
    "Upcycle",
    "Widen",
]
