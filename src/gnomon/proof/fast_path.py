"""torch's own attention layers read the weights of other modules in eval mode, and never call them.

Recordings run without that fast path, so that its operations show. A module that took the place of
a layer may have no such weight.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from gnomon.errors import Unsupported
from gnomon.recording.snapshot import unchanged
from gnomon.recording.tape import Call, clone_inputs

_FAST = (nn.MultiheadAttention, nn.TransformerEncoder, nn.TransformerEncoderLayer)


def check_fast_path(model: nn.Module, calls: Sequence[Call]) -> None:
    """See that a model still runs in eval mode as its user will run it.

    Raises Unsupported where it does not.
    """
    usual = torch.backends.mha.get_fastpath_enabled()
    if not usual or not any(isinstance(module, _FAST) for module in model.modules()):
        return
    for call in calls:
        args, kwargs = clone_inputs(call)
        with unchanged(model), torch.no_grad():
            model.eval()
            try:
                model(*args, **kwargs)
            except Exception as fault:  # whatever the forward raises
                raise Unsupported(
                    f"a layer of torch reads a weight past the module that now stands there "
                    f"({type(fault).__name__}: {fault}): its fast path in eval mode does so. "
                    f"Leave this layer as it is, or torch.backends.mha.set_fastpath_enabled(False)"
                ) from None
