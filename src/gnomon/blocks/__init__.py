"""Building blocks that say in their structure what usually hides in a `forward`."""

from gnomon.blocks.fold import carry, carry_gradients
from gnomon.blocks.native import Piece
from gnomon.blocks.one_ended import OneEnded, ZeroPadded
from gnomon.blocks.paths import Paths
from gnomon.blocks.r2r import R2RBlock
from gnomon.blocks.residual import Residual
from gnomon.blocks.upcycled import Upcycled

__all__ = [
    "OneEnded",
    "Paths",
    "Piece",
    "R2RBlock",
    "Residual",
    "Upcycled",
    "ZeroPadded",
    "carry",
    "carry_gradients",
]
