"""What a search may cost: for each network, for the population, for the whole search."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields

from torch import Tensor

from gnomon.evolution.errors import OverBudget
from gnomon.evolution.population.member import Member, Size, distinct
from gnomon.evolution.population.optimizer import SharedOptimizer

BACKWARD = 3  # FLOPs of a training step, in forward passes


@dataclass(frozen=True)
class Spent:
    """What a search has taken: training steps, their examples and FLOPs, and seconds in all.

    FLOPs of training are counted as three forward passes, `BACKWARD`.
    """

    steps: int = 0
    examples: int = 0
    flops: int = 0
    seconds: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.steps + other.steps,
            self.examples + other.examples,
            self.flops + other.flops,
            self.seconds + other.seconds,
        )


@dataclass(frozen=True)
class Budget:
    """The most that may be taken; None is no limit.

    parameters, flops: of one network; FLOPs forward, for one example. A mutation that would exceed
                       them is not proposed.
    memory:            bytes of the population: parameters, buffers and optimizer state, each stored
                       once, and the gradients of its largest member (activations are not counted).
    training_flops, seconds: of the whole search; it stops before a step that would exceed them.
    """

    parameters: int | None = None
    flops: int | None = None
    memory: int | None = None
    training_flops: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not value > 0:
                raise ValueError(f"a budget must be above 0, not {field.name}={value!r}")

    def excess(self, members: Collection[Member], newest: Member, copies: int) -> str:
        """What a population with this newest member breaks, in words; "" if nothing."""
        size: Size = newest.size
        for name, most in (("parameters", self.parameters), ("flops", self.flops)):
            if most is not None and getattr(size, name) > most:
                return f"{getattr(size, name):,} {name} are more than the {most:,} allowed"
        if self.memory is not None:
            needed = memory_of(members, copies)
            if needed > self.memory:
                return f"{needed:,} bytes of memory are more than the {self.memory:,} allowed"
        return ""

    def check_base(self, base: Member, copies: int) -> None:
        """Raise OverBudget if the base network alone is too large."""
        problem = self.excess([base], base, copies)
        if problem:
            raise OverBudget(
                f"the search cannot begin, its base network breaks the budget: {problem}. Give "
                f"more, or begin with a smaller base"
            )

    def ended(self, spent: Spent, members: Collection[Member]) -> str:
        """What is spent, or may be by the next step of these members, in words; "" if nothing."""
        examples = -(-spent.examples // max(1, spent.steps))
        return self.spent_by(spent, BACKWARD * examples * max(m.size.flops for m in members))

    def spent_by(self, spent: Spent, next_flops: int = 0) -> str:
        """What is spent, or would be by a step of so many FLOPs, in words; "" if nothing."""
        if self.training_flops is not None and spent.flops + next_flops > self.training_flops:
            return f"{spent.flops:,} of {self.training_flops:,} training FLOPs are spent"
        if self.seconds is not None and spent.seconds >= self.seconds:
            return f"{spent.seconds:.1f} of {self.seconds:g} seconds are spent"
        return ""


def memory_of(members: Collection[Member], copies: int) -> int:
    """Bytes of a population while it trains.

    copies: how many numbers the optimizer keeps per parameter (`SharedOptimizer.copies`).
    """
    once = list(distinct(members).values())
    gradients = [sum(map(_bytes, member.parameters.values())) for member in members]
    buffers = [b for member in members for b in member.network.buffers()]
    return (
        (1 + copies) * sum(map(_bytes, once))
        + sum(map(_bytes, buffers))
        + max(gradients, default=0)
    )


def measured_memory(members: Collection[Member], optimizer: SharedOptimizer) -> dict[str, int]:
    """Bytes that are held right now, counted tensor by tensor, each once."""
    parameters = list(distinct(members).values())
    state = [v for s in optimizer.state.values() for v in s.values() if isinstance(v, Tensor)]
    buffers = [b for member in members for b in member.network.buffers()]
    gradients = [p.grad for p in parameters if p.grad is not None]
    held: dict[str, Sequence[Tensor]] = {
        "parameters": parameters,
        "optimizer": state,
        "buffers": buffers,
        "gradients": gradients,
    }
    return {name: sum(map(_bytes, tensors)) for name, tensors in held.items()}


def _bytes(x: Tensor) -> int:
    return x.numel() * x.element_size()
