"""Operations of the code that multiply all of a product of activations by one number."""

from __future__ import annotations

from collections.abc import Sequence

from gnomon.ops.context import Op

SCALES = frozenset(("mul", "div", "mul_", "div_"))


def factor_of(op: Op) -> float | None:
    """The one number that an operation multiplies or divides by, if that is all it does."""
    if op.name not in SCALES or rounds(op):
        return None
    numbers = [a for a in op.args if type(a) in (int, float)]
    if len(op.tensors()) != 1 or len(numbers) != 1 or not numbers[0]:
        return None
    return float(numbers[0])


def rounds(op: Op) -> bool:
    """Whether a division rounds: floor(b) + floor(-b) is not 0."""
    return op.kwargs.get("rounding_mode") is not None


def scale_of(op: Op) -> float:
    """What a scaling operation multiplies by."""
    number = factor_of(op)
    assert number is not None
    return 1 / number if op.name.startswith("div") else number


def ratio(old: Sequence[Op], new: Sequence[float]) -> float:
    """By how much a chain of scalings multiplies more than it did."""
    found = 1.0
    for op, now in zip(old, new, strict=True):
        found *= now / scale_of(op)
    return found
