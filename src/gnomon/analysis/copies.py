"""Buffers that no recorded pass reads and that hold the same numbers as one that is read.

Rotary embeddings keep a second copy of their frequencies, to put it back later. A pass that reads
the copy then finds what it would find in the original, so it has to grow as the original does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from gnomon.ops.context import Context, Use


def follow_originals(model: nn.Module, owned: Mapping[str, Tensor], t: Context) -> None:
    """Give unread copies the axes and the uses of what they are copies of."""
    for copy, original in _pairs(model, owned, t):
        for own, other in zip(t.dims[copy], t.dims[original], strict=True):
            t.tie(own, other)
        handles = dict(zip(t.dims[original], t.dims[copy], strict=True))
        t.uses += [
            Use(copy, handles.get(use.axis, use.axis), use.role)
            for use in t.uses
            if use.name == original
        ]
        if original in t.fills:
            t.fills[copy] = t.fills[original]
        t.used.add(copy)


def _pairs(model: nn.Module, owned: Mapping[str, Tensor], t: Context) -> Iterator[tuple[str, str]]:
    """(unread, read) buffers of one module that are equal bit for bit, and not all one number."""
    for path, module in model.named_modules():
        names = [f"{path}.{name}" if path else name for name in module._buffers]
        held = [name for name in names if name in owned and owned[name].is_floating_point()]
        read = [name for name in held if name in t.used]
        for name in held:
            if name in t.used or not read:
                continue
            original = next((r for r in read if _is_copy(owned[name], owned[r])), None)
            if original is not None:
                yield name, original


def _is_copy(x: Tensor, original: Tensor) -> bool:
    alike = x.shape == original.shape and x.dtype == original.dtype and x.device == original.device
    if not alike or x.is_meta or not x.numel():
        return False
    return torch.equal(x, original) and not bool((x == x.flatten()[0]).all())
