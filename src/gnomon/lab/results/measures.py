"""What is compared on the test split: how many are right, or the loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gnomon.lab.running.runs import Result


@dataclass(frozen=True)
class Measure:
    """What a frontier is drawn in, the higher the better.

    value: of a finished run. shown, ahead: a value, and a difference of two, in words.
    sign:  what a value is multiplied by before it is drawn.
    """

    title: str
    value: Callable[[Result], float | None]
    shown: Callable[[float], str]
    ahead: Callable[[float, float], str]
    unit: str
    sign: int = 1
    percent: bool = True


def _less(result: Result) -> float | None:
    return None if result.test_loss is None else -result.test_loss


ACCURACY = Measure(
    "test accuracy",
    lambda result: result.test_accuracy,
    lambda value: f"{value:.1%}",
    lambda value, reach: f"{100 * value:+.2f} ± {100 * reach:.2f}",
    "points",
)
LOSS = Measure(
    "test loss",
    _less,
    lambda value: f"{-value:.3f}",
    lambda value, reach: f"{value:+.3f} ± {reach:.3f}",
    "nats less",
    sign=-1,
    percent=False,
)
