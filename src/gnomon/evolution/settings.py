"""The numbers of a search."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """How long, how many, how far. The defaults are those of the paper, but for tau.

    first_steps: N_i, on the base alone.         steps: N_j, of joint training in every round.
    keep:        K, how many are selected.       size:  M, the whole population.
    rounds:      of selecting, mutating and training.
    tau:         a child must have fewer than 1 / tau times its parent's parameters; 0 is no limit.
                 The paper gives no value, its published code knows none.

    Source: Painter, Deep Neuroevolution, algorithms 1 to 4 and table 2.
    """

    first_steps: int = 5000
    steps: int = 5000
    keep: int = 3
    size: int = 10
    rounds: int = 15
    tau: float = 0.0

    def __post_init__(self) -> None:
        for name in ("first_steps", "steps", "keep", "size", "rounds"):
            value, least = getattr(self, name), 1 if name in ("keep", "size") else 0
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be a whole number of {least} or more, not {value!r}")
        if self.keep > self.size:
            raise ValueError(
                f"keep={self.keep} members cannot be selected of a population of size={self.size}: "
                f"size counts all of it, those that are kept included"
            )
        if not 0 <= self.tau < 1:
            raise ValueError(
                f"tau must be a ratio of parameters in [0, 1), not {self.tau!r}: with 1 no network "
                f"could grow"
            )
