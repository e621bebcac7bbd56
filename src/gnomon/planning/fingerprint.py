"""Digests that tell whether a model is still the one a plan was made for."""

from __future__ import annotations

import hashlib
import json

from torch import nn

from gnomon.analysis.groups import Analysis
from gnomon.recording.tape import owned_tensors


def structure(model: nn.Module) -> str:
    """A digest of names, shapes and classes."""
    tensors = [[n, list(t.shape), str(t.dtype)] for n, t in owned_tensors(model).items()]
    classes = [
        [n, f"{type(m).__module__}.{type(m).__qualname__}"] for n, m in model.named_modules()
    ]
    return hashlib.sha256(json.dumps([tensors, classes]).encode()).hexdigest()[:16]


def fingerprint(digest: str, analysis: Analysis) -> str:
    """The structure's digest and one of the operations on the tape."""
    operations = [[op.name for op in recording.ops] for recording in analysis.recordings]
    tape = hashlib.sha256(json.dumps(operations).encode()).hexdigest()[:16]
    return f"{digest}-{tape}"
