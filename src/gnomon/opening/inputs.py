"""Example inputs: as they are written on a command line, and drawn.

1x3x224x224            floats, drawn from a normal distribution
2x16:1000              whole numbers below 1000
input_ids=2x16:1000    given by keyword
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gnomon.opening.errors import CannotOpen

BATCH = 2  # with BatchNorm a batch of one may have no variance


@dataclass(frozen=True)
class Input:
    """One input tensor. below: whole numbers in [0, below), else floats; name: of a keyword."""

    shape: tuple[int, ...]
    below: int | None = None
    name: str | None = None

    def __str__(self) -> str:
        named = f"{self.name}=" if self.name else ""
        whole = f":{self.below}" if self.below else ""
        return f"{named}{'x'.join(map(str, self.shape))}{whole}"


def read_input(text: str) -> Input:
    """Read `[NAME=]SHAPE[:BELOW]`. Raises CannotOpen."""
    name, equals, rest = text.rpartition("=")
    shape, colon, below = rest.partition(":")
    try:
        sizes = tuple(map(int, shape.strip().split("x")))
        most = int(below) if colon else None
    except ValueError:
        sizes, most = (), None
    good = sizes and min(sizes) > 0 and (most is None or most > 0)
    if not good or (equals and not name.isidentifier()):
        raise CannotOpen(
            f"the input '{text}' is not [NAME=]SHAPE[:BELOW]: write 1x3x224x224 for floats, "
            f"2x16:1000 for whole numbers below 1000, input_ids=2x16:1000 for a keyword"
        )
    return Input(sizes, most, name or None)


def drawn(inputs: Sequence[Input], model: nn.Module, **constant: object) -> object:
    """Example inputs for a `Grower`, floats in the model's dtype.

    constant: further keyword arguments. Raises CannotOpen if names and positions are mixed.
    """
    if len({one.name is None for one in inputs}) > 1:
        raise CannotOpen("give every input a NAME= or none of them")
    generator = torch.Generator().manual_seed(0)
    tensors = [_drawn(one, generator).to(dtype_for(model, one)) for one in inputs]
    if inputs[0].name is None and not constant:
        return tuple(tensors)
    named = {str(one.name): x for one, x in zip(inputs, tensors, strict=True)}
    return {**named, **constant}


def _drawn(one: Input, generator: torch.Generator) -> Tensor:
    if one.below is not None:
        return torch.randint(0, one.below, one.shape, generator=generator)
    return torch.randn(one.shape, generator=generator)


def dtype_for(model: nn.Module, one: Input) -> torch.dtype:
    """Whole numbers as int64, floats as the model's own."""
    if one.below is not None:
        return torch.int64
    floats = (p.dtype for p in model.parameters() if p.is_floating_point())
    return next(floats, torch.float32)
