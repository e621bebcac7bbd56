"""Every cell of Table 1 of the R2R paper: what it claims, what was measured, whether it holds.

The paper is 000: Painter, Towards a More Complete Theory of Function Preserving Transforms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from typing import Literal

from gnomon.lab.table1.activations import families
from gnomon.lab.table1.function import (
    CHANGED,
    IN_EXPECTATION,
    KEPT,
    activations_deepen,
    activations_widen,
    new_channels,
    new_layers,
    preserving_deepen,
    preserving_widen,
    residual_deepen,
    residual_widen,
)
from gnomon.lab.table1.here import Here
from gnomon.lab.table1.method import COUNTS, Finding, Method, Refused, Value
from gnomon.lab.table1.parameters import degrees_of_freedom, existing_kept
from gnomon.lab.table1.published import ChensNet2Net, PaintersR2R, WeisNetMorph
from gnomon.lab.table1.training import needs_no_noise
from gnomon.rules import R2R, Net2Net, NetMorph


class Verdict(Enum):
    """How a measurement stands to a claim."""

    SAME = "as claimed"
    MORE = "more"
    LESS = "less"


@dataclass(frozen=True)
class Cell:
    """One cell. It holds if at least what is claimed was measured."""

    claimed: str
    measured: str
    verdict: Verdict

    @property
    def holds(self) -> bool:
        """Whether the claim is met, or more than met."""
        return self.verdict is not Verdict.LESS


@dataclass(frozen=True)
class Claim:
    """What the paper prints, and the value that a measurement is compared with.

    A string stands for the class of activations of this name.
    """

    text: str
    value: Value | Literal["per entry", "with f(0) = 0", "idempotent"]


@dataclass(frozen=True)
class Row:
    """One property: how it is measured, and what the paper prints for each method."""

    title: str
    measure: Callable[[Method], Finding]
    r2r: Claim
    net2net: Claim
    netmorph: Claim

    def claim(self, method: Method) -> Claim:
        """What the paper prints for a method."""
        return {"R2R": self.r2r, "Net2Net": self.net2net, "NetMorph": self.netmorph}[method.name]


MCD = Claim("MCD", "per entry")
MCD_AND_ZERO = Claim("MCD + fixed point at zero", "with f(0) = 0")
YES, NO, NO_DEPTH = Claim("✓", 1), Claim("✗", 0), Claim("N/A", 0)
NO_NOISE, NOISE = Claim("✗", 1), Claim("✓", 0)
KEEPS, EXPECTED = Claim("✓", KEPT), Claim("in expectation", IN_EXPECTATION)
HALF, NONE = Claim("half", Fraction(1, 2)), Claim("none", Fraction(0))
ANY, EVEN = Claim("any", frozenset(COUNTS)), Claim("even", frozenset({2, 4}))
TWO_OR_MORE, NO_LAYERS = Claim("≥ 2", frozenset(COUNTS[1:])), Claim("N/A", frozenset[int]())
NO_ACTIVATIONS = Claim("N/A", frozenset[str]())

# A row of the paper that is about widening and deepening alike is measured as two.
ROWS = (
    Row(
        "activation functions (deepen)", activations_deepen,
        MCD_AND_ZERO, Claim("idempotent", "idempotent"), NO_ACTIVATIONS,
    ),
    Row("activation functions (widen)", activations_widen, MCD, MCD, MCD_AND_ZERO),
    Row("function preserving (widen)", preserving_widen, KEEPS, EXPECTED, KEEPS),
    Row(
        "function preserving (deepen)", preserving_deepen,
        KEEPS, EXPECTED, Claim("N/A", CHANGED),
    ),
    Row("requires noise", needs_no_noise, NO_NOISE, NOISE, NO_NOISE),
    Row("residual connections (widen)", residual_widen, YES, NO, NO),
    Row("residual connections (deepen)", residual_deepen, YES, NO, NO_DEPTH),
    Row("degrees of freedom", degrees_of_freedom, HALF, NONE, HALF),
    Row("preserves existing parameters", existing_kept, YES, NO, YES),
    Row("number of new layers (deepen)", new_layers, TWO_OR_MORE, ANY, NO_LAYERS),
    Row("number of new channels (widen)", new_channels, EVEN, ANY, ANY),
)  # fmt: skip

# As published, and here.
METHODS: tuple[tuple[Method, Method], ...] = (
    (PaintersR2R(), Here(R2R())),
    (ChensNet2Net(), Here(Net2Net())),
    (WeisNetMorph(), Here(NetMorph())),
)


def cell(row: Row, method: Method) -> Cell:
    """Measure one cell."""
    claim = row.claim(method)
    claimed = families()[claim.value] if isinstance(claim.value, str) else claim.value
    try:
        finding = row.measure(method)
    except Refused as refusal:
        return Cell(claim.text, str(refusal), Verdict.LESS if claimed else Verdict.SAME)
    return Cell(claim.text, finding.text, verdict(claimed, finding.value))


def verdict(claimed: Value, found: Value) -> Verdict:
    """Sets compare by inclusion, numbers by size."""
    if found == claimed:
        return Verdict.SAME
    return Verdict.MORE if _exceeds(found, claimed) else Verdict.LESS


def _exceeds(found: Value, claimed: Value) -> bool:
    if isinstance(found, frozenset):
        return isinstance(claimed, frozenset) and found > claimed
    return not isinstance(claimed, frozenset) and found > claimed


def cells() -> Iterator[tuple[Row, str, Cell, Cell]]:
    """The whole table: property, method, the cell as published and the cell here."""
    for row in ROWS:
        for published, here in METHODS:
            yield row, published.name, cell(row, published), cell(row, here)
