"""What was made zero is zero where it stands, on what arrives there.

No output of the model tells that behind a gate of zero; later the gate opens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gnomon.adding.making import Started
from gnomon.blocks import Residual
from gnomon.errors import NotProved
from gnomon.planning.edit import ModuleEdit
from gnomon.proof.verify import TOLERANCE
from gnomon.recording.tape import Recording


def check_zero_in(run: Recording, module: nn.Module, edit: ModuleEdit, started: Started) -> None:
    """Raise NotProved unless the body of a new block gave zero in a pass on real tensors.

    Rounding is of the largest that the body gave before, on numbers of about 1.
    """
    if edit.start != "zero" or not isinstance(module, Residual):
        return
    scale = max((zero.scale for _, zero in started), default=1.0)
    for visit in run.visits:
        if visit.module is not module.body or not isinstance(visit.output, Tensor):
            continue
        y, arriving = visit.output, _largest(visit.inputs[0])
        limit = TOLERANCE.get(y.dtype, 4 * torch.finfo(y.dtype).eps)
        found = _largest(y)
        if not found <= limit * scale * max(1.0, arriving):
            raise NotProved(
                f"the block that was put behind '{edit.place}' still computes {found:.1e} after "
                f"its last layer was made to cancel: something in it mixes the hidden channels in "
                f"a way that its tape does not show. Everything was undone"
            )


def _largest(x: object) -> float:
    return float(x.detach().abs().max()) if isinstance(x, Tensor) and x.numel() else 0.0
