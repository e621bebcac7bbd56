"""How far new weights are spread: as the old ones of their tensor, or as their rule says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from gnomon.errors import Unsupported
from gnomon.planning.plan import Plan
from gnomon.recording.tape import owned_tensors
from gnomon.rules import Rule


def with_measured_spreads(plan: Plan, model: nn.Module) -> Plan:
    """The plan with the standard deviations that one made on `meta` could not know."""
    unknown = [edit for edit in plan.edits if edit.std is None]
    if not unknown:
        return plan
    owned = owned_tensors(model)
    std = {e: spread_of_new(e.name, owned[e.name], plan.grown_shape(e), plan.rule) for e in unknown}
    edits = tuple(replace(e, std=std[e]) if e in std else e for e in plan.edits)
    return replace(plan, edits=edits)


def spread_of_new(name: str, tensor: Tensor, grown: Sequence[int], rule: Rule) -> float | None:
    """The spread of new weights, He's where all old ones are equal; None if it cannot be known."""
    he = math.sqrt(2 / max(1, math.prod(grown[1:]))) if tensor.dim() > 1 else None
    matched = None if tensor.is_meta else _spread(tensor)
    if matched is not None and not math.isfinite(matched):
        raise Unsupported(f"'{name}' holds NaN or infinite weights: nothing can be proved of it")
    if he is not None and (rule.init == "he" or matched == 0):
        return he
    return matched


def _spread(tensor: Tensor) -> float:
    """The standard deviation, accumulated in float32 at least."""
    x = tensor.detach()
    if not x.numel():
        return 0.0
    x = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    mean, square = float(x.mean()), float(torch.linalg.vector_norm(x)) ** 2 / x.numel()
    if square - mean * mean > 0.01 * square:  # several times faster than torch.std, and safe here
        return math.sqrt(square - mean * mean)
    return float(torch.std(x, correction=0))
