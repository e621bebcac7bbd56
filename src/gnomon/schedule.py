"""When to grow: at a moment, again and again, or when a metric no longer improves.

A schedule is data. What has happened so far is in a `Timeline`, which can be saved and resumed:

    schedule = At(Widen("*", by=2), epoch=5) + OnPlateau("accuracy", Deepen("stage1"))
    timeline = Timeline(schedule)
    receipts = timeline.advance(grower, step=step, epoch=epoch, metrics={"accuracy": 0.8})
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from gnomon.adjustments import After, adjust, check_adjustments, in_order
from gnomon.grower import Grower, Morph
from gnomon.receipt import Receipt

Memory = MutableMapping[str, Any]
_FOREVER = 1 << 62


@dataclass(frozen=True)
class Moment:
    """Where training is: steps and epochs that are done, and what was just measured."""

    step: int
    epoch: int
    metrics: Mapping[str, float] = field(default_factory=dict)


class Schedule(ABC):
    """Which morphs are due at a moment. Schedules add up: `a + b` is due when either is."""

    @abstractmethod
    def due(self, now: Moment, memory: Memory) -> Sequence[Morph]:
        """The morphs to apply now, in order.

        memory: plain data of this schedule alone, empty at first; may be changed.
        """

    @abstractmethod
    def times(self, steps: int, epochs: int) -> Iterator[tuple[str, int, Morph]]:
        """("step" or "epoch", number, morph) of what is known beforehand, up to these counts."""

    def __add__(self, other: Schedule) -> Schedule:
        return Together((*_parts(self), *_parts(other)))


def _parts(schedule: Schedule) -> tuple[Schedule, ...]:
    return schedule.parts if isinstance(schedule, Together) else (schedule,)


@dataclass(frozen=True)
class Together(Schedule):
    """Several schedules at once, each with a memory of its own."""

    parts: tuple[Schedule, ...]

    def due(self, now: Moment, memory: Memory) -> Sequence[Morph]:
        """What any of the parts asks for, in their order."""
        found: list[Morph] = []
        for i, part in enumerate(self.parts):
            found += part.due(now, memory.setdefault(str(i), {}))
        return found

    def times(self, steps: int, epochs: int) -> Iterator[tuple[str, int, Morph]]:
        """The known moments of all parts."""
        for part in self.parts:
            yield from part.times(steps, epochs)


@dataclass(frozen=True)
class At(Schedule):
    """One morph, or several in a row, once so many steps or epochs are done."""

    morph: Morph | Sequence[Morph]
    step: int | None = None
    epoch: int | None = None

    def __post_init__(self) -> None:
        if (self.step is None) == (self.epoch is None):
            raise ValueError("give exactly one of step=, epoch=")
        _check_count("step" if self.step is not None else "epoch", self._number, least=0)
        _check_morphs(self.morph)

    @property
    def _number(self) -> int:
        return self.step if self.step is not None else (self.epoch or 0)

    def due(self, now: Moment, memory: Memory) -> Sequence[Morph]:
        """The morphs, the first time that the moment has come or passed."""
        reached = now.step if self.step is not None else now.epoch
        if memory.get("done") or reached < self._number:
            return ()
        memory["done"] = True
        return _several(self.morph)

    def times(self, steps: int, epochs: int) -> Iterator[tuple[str, int, Morph]]:
        """The one moment."""
        unit, most = ("step", steps) if self.step is not None else ("epoch", epochs)
        if self._number <= most:
            yield from ((unit, self._number, morph) for morph in _several(self.morph))


@dataclass(frozen=True)
class Every(Schedule):
    """A morph after every n steps (or epochs), up to and including `until`."""

    n: int
    morph: Morph | Sequence[Morph]
    until: int | None = None
    unit: Literal["step", "epoch"] = "step"

    def __post_init__(self) -> None:
        _check_count("n", self.n, least=1)
        if self.until is not None:
            _check_count("until", self.until, least=self.n)
        if self.unit not in ("step", "epoch"):
            raise ValueError(f"unit must be 'step' or 'epoch', not {self.unit!r}")
        _check_morphs(self.morph)

    def due(self, now: Moment, memory: Memory) -> Sequence[Morph]:
        """The morphs, once for every multiple that was reached since the last call."""
        reached = min(now.step if self.unit == "step" else now.epoch, self.until or _FOREVER)
        count = reached // self.n - memory.get("count", 0)
        memory["count"] = max(reached // self.n, memory.get("count", 0))
        return [morph for _ in range(count) for morph in _several(self.morph)]

    def times(self, steps: int, epochs: int) -> Iterator[tuple[str, int, Morph]]:
        """All multiples."""
        most = min(steps if self.unit == "step" else epochs, self.until or _FOREVER)
        for number in range(self.n, most + 1, self.n):
            yield from ((self.unit, number, morph) for morph in _several(self.morph))


@dataclass(frozen=True)
class OnPlateau(Schedule):
    """A morph when a metric has not improved for `patience` measurements, at most `times` times.

    metric: its name; mode "max" for an accuracy, "min" for a loss.
    margin: by how much it must improve to count. After a growth the count starts anew.
    """

    metric: str
    morph: Morph | Sequence[Morph]
    patience: int = 5
    mode: Literal["max", "min"] = "max"
    margin: float = 0.0
    most: int = 1

    def __post_init__(self) -> None:
        _check_count("patience", self.patience, least=1)
        _check_count("most", self.most, least=1)
        if self.mode not in ("max", "min"):
            raise ValueError(f"mode must be 'max' or 'min', not {self.mode!r}")
        _check_morphs(self.morph)

    def due(self, now: Moment, memory: Memory) -> Sequence[Morph]:
        """The morphs, if this measurement ends the patience. A NaN is no improvement."""
        if self.metric not in now.metrics or memory.get("grown", 0) >= self.most:
            return ()
        value = float(now.metrics[self.metric]) * (1 if self.mode == "max" else -1)
        best = memory.get("best")
        if (best is None and value == value) or (best is not None and value > best + self.margin):
            memory.update(best=value, waited=0)
            return ()
        memory["waited"] = memory.get("waited", 0) + 1
        if memory["waited"] < self.patience:
            return ()
        memory.update(waited=0, grown=memory.get("grown", 0) + 1)
        return _several(self.morph)

    def times(self, steps: int, epochs: int) -> Iterator[tuple[str, int, Morph]]:
        """Nothing is known beforehand."""
        return iter(())


class Grow(Protocol):
    """A way to make one growth."""

    def __call__(self, what: Morph, /, *, seed: int) -> Receipt:
        """In place, proved, or undone."""


@dataclass
class Timeline:
    """A schedule and what has happened of it so far.

    seed: the i-th growth draws with seed + i.
    after: what happens to the optimizers at each growth: one adjustment, or several in order.
    """

    schedule: Schedule
    seed: int = 0
    after: After = ()
    memory: dict[str, Any] = field(default_factory=dict)
    grown: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.schedule, Schedule):
            raise ValueError(
                f"a schedule such as At(Widen(...), epoch=5) is needed: {self.schedule!r}"
            )
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise ValueError(f"seed must be a whole number, not {self.seed!r}")
        in_order(self.after)

    def check(self, grower: Grower) -> None:
        """Raise Unsupported if `after` cannot act on this grower's optimizers.

        From now on is measured what `after` needs to know of the steps before a growth: call it,
        or `advance`, before the first step.
        """
        if in_order(self.after):
            check_adjustments(grower.optimizers, self.after)

    def advance(
        self,
        grower: Grower,
        *,
        step: int = 0,
        epoch: int = 0,
        metrics: Mapping[str, float] | None = None,
    ) -> list[Receipt]:
        """Grow by what is due now. Call it as often as you like: each moment comes once.

        Raises what Grower.grow raises; what was applied before the error stays applied. What
        `after` cannot do is refused before a growth: Unsupported.
        """
        self.check(grower)
        due = tuple(self.schedule.due(Moment(step, epoch, metrics or {}), self.memory))
        if not due:
            return []
        with grower.moment():
            return [self.grow(grower, morph, grower.grow) for morph in due]

    def grow(self, grower: Grower, morph: Morph, how: Grow) -> Receipt:
        """Make the next growth in a given way, such as `grower.grow`, and adjust to it."""
        if in_order(self.after):
            check_adjustments(grower.optimizers, self.after, growing=True)
        receipt = how(morph, seed=self.seed + self.grown)
        self.grown += 1
        if in_order(self.after):
            adjust(grower, receipt, self.after)
        return receipt

    def state_dict(self) -> dict[str, Any]:
        """What has happened so far, as plain data."""
        return {"memory": copy.deepcopy(self.memory), "grown": self.grown, "seed": self.seed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.memory, self.grown = copy.deepcopy(dict(state["memory"])), int(state["grown"])
        self.seed = int(state["seed"])


def _several(morph: Morph | Sequence[Morph]) -> tuple[Morph, ...]:
    return (morph,) if isinstance(morph, Morph) else tuple(morph)


def _check_morphs(morph: object) -> None:
    several = (morph,) if isinstance(morph, Morph) else morph
    if not isinstance(several, Sequence) or not several:
        raise ValueError(f"a morph such as Widen(...) or several are needed, not {morph!r}")
    if not all(isinstance(one, Morph) for one in several):
        raise ValueError(f"a morph such as Widen(...) or several are needed, not {morph!r}")


def _check_count(name: str, value: object, *, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number of {least} or more, not {value!r}")
