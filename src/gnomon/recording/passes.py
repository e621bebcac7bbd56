"""Passes that were made already: what one step of a growth has run, the next need not run again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

from gnomon.recording.tape import Recording


@dataclass(frozen=True, eq=False)
class Passes:
    """Passes of the model as it is, on real tensors, one per call.

    trained: None if something was set afterwards on which what they compute depends.
    """

    evaluated: Sequence[Recording]
    trained: Sequence[Recording] | None

    @property
    def in_turn(self) -> list[Recording] | None:
        """Per call in eval mode, then in train mode, as an analysis wants them."""
        if self.trained is None:
            return None
        return list(chain(*zip(self.evaluated, self.trained, strict=True)))

    @property
    def without_operations(self) -> Passes:
        """The same for one who will not ask for them: with them go all activations."""
        trained = None if self.trained is None else list(map(_bare, self.trained))
        return Passes(list(map(_bare, self.evaluated)), trained)

    def of(self, call: int, training: bool) -> Recording | None:
        """The pass of one call in one mode, if there is one."""
        runs = (self.trained or ()) if training else self.evaluated
        return runs[call] if call < len(runs) else None


def _bare(run: Recording) -> Recording:
    return replace(run, ops=[], visits=[])


NONE = Passes((), None)
