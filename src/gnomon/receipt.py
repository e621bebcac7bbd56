"""The receipt: what a growth did, and its proof."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gnomon.planning.edit import AttributeEdit
from gnomon.planning.plan import Claim, Plan

_CLAIMS: Mapping[Claim, str] = {
    "exact": "function kept",
    "expectation": "function kept in eval mode, in expectation in train mode",
    "interior": "function kept except in a frame (asked for)",
    "none": "function NOT kept (asked for)",
}
_SHOWN = 4


@dataclass(frozen=True)
class Seconds:
    """How long a growth took; drawing random numbers is part of neither edits nor proof."""

    analysis: float
    plan: float
    edits: float
    drawing: float
    proof: float

    @property
    def growth(self) -> float:
        """Plan, draws and edits."""
        return self.plan + self.drawing + self.edits


@dataclass(frozen=True)
class Receipt:
    """What a growth did, and its proof.

    largest_change: max over output tensors, calls and modes of max|change| / max|old|; NaN if
            the proof was by algebra alone.
    largest_change_float64: the same with everything in float64, or None where that cannot be had.
    noise_floor: the old model's own rounding error, measured alike, or None.
    parameters, flops: before and after (FLOPs of one example's forward pass).
    renamed: state_dict names that moved; empty for Widen.
    expectation: how far outputs moved in train mode on halves of the example batch, where the
            function is kept in expectation only; None otherwise, or for under 4 examples.
    repaired: attributes that a search found, because the code keeps a width in them.
    """

    plan: Plan
    largest_change: float
    largest_change_float64: float | None
    noise_floor: float | None
    preserves: bool
    parameters: tuple[int, int]
    flops: tuple[int, int]
    seconds: Seconds
    proved_by: str
    renamed: Mapping[str, str]
    repaired: tuple[AttributeEdit, ...]
    expectation: float | None = None

    def __str__(self) -> str:
        p, f, s = self.parameters, self.flops, self.seconds
        claim = _CLAIMS[self.plan.claim]
        if self.proved_by == "algebra":
            measured = "the equation on every stored tensor; outputs not compared"
        else:
            measured = f"outputs moved {self.largest_change:.1e} of the largest"
        lines = [f"receipt: {self.plan.morph}", f"  {claim}: {measured}"]
        if self.largest_change_float64 is not None:
            lines.append(f"  in float64: {self.largest_change_float64:.1e}")
        if self.noise_floor is not None:
            lines.append(f"  the old model's own rounding: {self.noise_floor:.1e}")
        lines.append(f"  parameters {p[0]:,} -> {p[1]:,}")
        if f[0]:
            lines.append(f"  forward FLOPs per example {f[0]:,} -> {f[1]:,}")
        lines.append(
            f"  seconds: analysis {s.analysis:.3f}, growth {s.growth:.3f} "
            f"(draws {s.drawing:.3f}), proof {s.proof:.3f}"
        )
        if self.expectation is not None:
            lines.append(
                f"  in train mode, on halves of the example batch: moved {self.expectation:.1e}"
            )
        lines += [f"  renamed: {old} -> {new}" for old, new in list(self.renamed.items())[:_SHOWN]]
        if len(self.renamed) > _SHOWN:
            lines.append(f"  ... {len(self.renamed)} names moved, see .renamed")
        lines += [f"  note: {note}" for note in self.plan.notes]
        for a in self.repaired:
            lines.append(f"  found by search: {a.path}.{a.name} {a.old} -> {a.new}")
        return "\n".join(lines)
