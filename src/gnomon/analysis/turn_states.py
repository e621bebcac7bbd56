"""What a signal is once its stream is turned, and what the tape says of the stream.

turned   x' = T x; behind the gain of a norm that its readers take over, x' = T (x / gain)
same     one number for all channels, of which T makes the same number again
zero     nothing, which is all of these at once
noise    a dropout mask, which is set to its mean for every proof
inside   in the middle of a norm, where nothing else looks
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from gnomon.analysis.norms import Gain
from gnomon.analysis.walk import Slot
from gnomon.axes import Form
from gnomon.errors import CannotPreserve

OTHER = (
    "NetMorph(zero='writers') may add channels that carry nothing new, Net2Net() copies all "
    "channels equally often (by=2, 3, ...)"
)


@dataclass(frozen=True)
class State:
    """What a signal is, once the stream is turned."""

    kind: Literal["turned", "same", "zero", "noise", "inside"]
    gain: Gain | None = None


TURNED, SAME, ZERO = State("turned"), State("same"), State("zero")
NOISE, INSIDE = State("noise"), State("inside")


class NotBehind(CannotPreserve):
    """Something else than a reader comes behind a gain, so that the gain has to stay."""

    def __init__(self, gain: Gain, reason: str) -> None:
        super().__init__(reason)
        self.gain = gain


@dataclass
class Seen:
    """What the tape says of one leaf that is turned.

    reads:  per slot, behind which gains it is read; None for no gain.
    writes: slots that make the channels.
    biases: what norms add behind a gain: per slot that gain.
    gains:  those that the readers take over; kept: those that stay.
    random: random operations on the stream, by module.
    wholes: the gains of norms over more than the channels alone, and what these norms average.
    """

    reads: dict[Slot, set[Gain | None]] = field(default_factory=lambda: defaultdict(set))
    writes: set[Slot] = field(default_factory=set)
    biases: dict[Slot, set[Gain]] = field(default_factory=lambda: defaultdict(set))
    gains: set[Gain] = field(default_factory=set)
    kept: set[Gain] = field(default_factory=set)
    random: dict[str, None] = field(default_factory=dict)
    wholes: dict[str, Form] = field(default_factory=dict)

    def behind(self) -> Iterator[tuple[Slot, set[Gain | None]]]:
        """Per slot that is read, or added by a norm, behind which gains."""
        yield from self.reads.items()
        yield from ((slot, set[Gain | None](gains)) for slot, gains in self.biases.items())
