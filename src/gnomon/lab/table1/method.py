"""What every method can be asked for, and what a measurement gives."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from gnomon.lab.table1.networks import EXACT, NewLayers, Small, Stream

Value = frozenset[str] | frozenset[int] | Fraction | int

COUNTS = (1, 2, 3, 4, 5)  # numbers of new layers and of new channels that are tried
ADDED = 4  # new channels elsewhere


class Refused(Exception):
    """A method does not do what it was asked."""


class Method(Protocol):
    """A way to widen and to deepen small networks; all of it raises Refused."""

    @property
    def name(self) -> str:
        """Its column in the paper's table."""

    def widen(self, net: Small, add: int, seed: int = 0) -> Small:
        """More channels between `write` and `read`."""

    def widen_stream(self, net: Stream) -> Stream:
        """More channels in a residual stream."""

    def deepen(self, net: Small, new: NewLayers) -> tuple[Small, str]:
        """More layers behind `act`, and which way was taken if there are several."""

    def deepen_stream(self, net: Stream, new: NewLayers) -> Stream:
        """More layers beside a residual connection."""


@dataclass(frozen=True)
class Finding:
    """What was measured: a value that compares with others of its row, and how it reads."""

    value: Value
    text: str


def shown(moved: float) -> str:
    """A change as it is printed; rounding errors are not told apart."""
    return f"< {EXACT:.0e}" if moved <= EXACT else f"{moved:.1g}"
