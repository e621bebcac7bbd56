"""What the end of a growth knows of the model, and whether it still is that model."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

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
    return tuple(chain(*((id(t), t._version, _address(t), t.shape) for t in tensors)))


def _address(t: Tensor) -> int:
    return t.data_ptr() if t.layout == torch.strided else 0  # sparse ones have several, or none
