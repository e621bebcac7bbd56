"""What the end of a growth knows of the model, and whether it still is that model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

from torch import nn

from gnomon.proof.verify import Answers
from gnomon.recording.tape import Recording, owned_tensors


@dataclass(frozen=True, eq=False)
class Found:
    """What the end of a growth knows of the model: recordings and answers, None if not known."""

    marks: tuple[object, ...]
    recordings: list[Recording] | None
    answers: Answers | None


def marks(model: nn.Module) -> tuple[object, ...]:
    """What differs once a tensor of the model was written on, replaced or resized.

    Writes behind autograd's back (`.data`, numpy) do not show.
    """
    tensors = owned_tensors(model).values()
    flat: Iterable[object] = chain(*((id(t), t._version, t.data_ptr(), t.shape) for t in tensors))
    return tuple(flat)
