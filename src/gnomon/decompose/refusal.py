"""What the decomposition says when it refuses: what was asked, why not, and what would do."""

from __future__ import annotations

from collections.abc import Sequence

from gnomon.decompose.feasible import Case, Shapes, smallest_kernels, smallest_width


def asked(shapes: Shapes) -> str:
    """The split in words."""
    return (
        f"a layer of {shapes.into} -> {shapes.out} channels and {taps(shapes.kernel)} "
        f"as {taps(shapes.first)} and {taps(shapes.second)} with {shapes.hidden} channels between"
    )


def taps(kernel: Sequence[int]) -> str:
    """A kernel in words: 3x3, or 1 for a linear layer."""
    return "x".join(map(str, kernel)) or "1"


def no_case(shapes: Shapes) -> str:
    """Why no pair of layers of these shapes exists, with the smallest that do."""
    width, kernels = smallest_width(shapes), smallest_kernels(shapes)
    ways = []
    if width is not None:
        ways.append(f"{width} channels between")
    if kernels is not None:
        ways.append(f"kernels {taps(kernels[0])} and {taps(kernels[1])}")
    if shapes.hidden < min(shapes.out, shapes.into):
        reason = f"its rank can be {min(shapes.out, shapes.into)}, and theirs cannot"
    else:
        reason = "there are fewer unknowns than independent equations, whichever is solved for"
    advice = " or ".join(ways) or "larger kernels"
    return f"{asked(shapes)} cannot be computed: {reason}. Take at least {advice}"


def no_solution(chosen: Case, residual: float) -> str:
    """Why the solved layers are not handed out."""
    seen = chosen.shapes if chosen.solved == "first" else chosen.shapes.mirrored
    return (
        f"{asked(seen)} cannot be computed to rounding: the equations for the {chosen.solved} "
        f"layer were left with a relative residual of {residual:.1e}. Take more channels between"
    )


def too_large(chosen: Case, needed: int, budget: int) -> str:
    """Why solving was not even started."""
    return (
        f"solving for the {chosen.solved} layer would take {needed / 1e9:.2f} GB for a matrix of "
        f"{chosen.size} rows, and {budget / 1e9:.2f} GB were allowed. "
        "Take base and pairs, which need no large matrix, or allow more"
    )
