"""Growth inside other people's training loops: Lightning, Hugging Face, several processes.

Import the file you need: `from gnomon.callbacks.lightning import GrowthCallback`.
"""

from gnomon.callbacks.distributed import AllRanks, RanksDiffer, grow_together, refuse_difference
from gnomon.callbacks.resuming import Progress, replay

__all__ = [
    "AllRanks",
    "Progress",
    "RanksDiffer",
    "grow_together",
    "refuse_difference",
    "replay",
]
