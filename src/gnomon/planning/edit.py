"""Edits as data: what a plan does to one tensor, one attribute, one place among the modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from gnomon.axes import Form
from gnomon.ops.context import Fill, Role
from gnomon.planning.spec import Spec

AttributeValue = int | float | str | tuple[int, ...]
How = Literal["insert", "hook", "replace"]
Start = Literal[
    "zero",
    "identity",
    "random",
    "kept",
    "folded",
    "factored",
    "branched",
    "copied",
    "divided",
    "upcycled",
]


@dataclass(frozen=True)
class Behind:
    """The gain of a norm, slope * parameter + offset, that a turned stream has just passed.

    group: the stream. The gain becomes 1 and what comes behind it takes it over.
    whole: it has a number for each entry of a dimension in which the stream is only a part.
    """

    group: str
    gain: str
    slope: float = 1.0
    offset: float = 0.0
    whole: bool = False


@dataclass(frozen=True)
class DimEdit:
    """One dimension of a tensor that grows: by its role and by what its axis is made of.

    behind: of turned channels, the gains behind which they are read here, or added to.
    """

    dim: int
    role: Role
    form: Form
    behind: tuple[Behind, ...] = ()


@dataclass(frozen=True)
class TensorEdit:
    """A parameter or buffer that grows.

    std:  standard deviation of new weights, so that every copy of the model draws the same ones;
          None in a plan made on `meta`, which has no weights: then measured when it is applied.
    fill: how entries of fresh signals are made: drawn, the mean of the old, measured statistics,
          zero, copies of the old in turn (masks: the same for all tensors of a group). A writer
          that is filled with the mean gives it to channels that carry nothing too.
    scale, shift: old entries w become scale * w + shift: gains of a norm over more channels.
    """

    name: str
    dims: tuple[DimEdit, ...]
    shape: tuple[int, ...]
    std: float | None
    fill: Fill
    scale: float = 1.0
    shift: float = 0.0

    @property
    def rescales(self) -> bool:
        """Whether old entries get other values."""
        return (self.scale, self.shift) != (1.0, 0.0)

    def rescaled(self, old: Tensor) -> Tensor:
        """The old tensor with its entries changed, rounded once."""
        if not self.rescales:
            return old
        return (old.detach().double() * self.scale + self.shift).to(old.dtype)


@dataclass(frozen=True)
class AttributeEdit:
    """A number, a tuple of them or a word that a module keeps about its width or its padding.

    name: with a dot, as config.hidden_size, of a field of settings that the model is built from;
          there the old value may be none.
    """

    path: str
    name: str
    old: AttributeValue | None
    new: AttributeValue


@dataclass(frozen=True)
class WidthChange:
    """A group's channels before and after, and what was asked before rounding up to its step."""

    group: str
    old: int
    asked: int
    new: int


@dataclass(frozen=True, eq=False)
class ModuleEdit:
    """A module that is put behind another, or in its place.

    how:      "insert" it in the container of `place`, "hook" it to the output of `place`, or
              "replace" `place` by it.
    spec:     its class and arguments, or the name of a factory; see `gnomon.planning.spec`.
    start:    what it computes at first: "zero" in its branch, the "identity", something "random",
              or what its values make of it ("kept"); "folded" has the values of what it replaces,
              "factored" and "branched" weights made from those of what it replaces; "copied" is a
              copy of another block, whose branches end in zero, "divided" one that divides what
              its last kernels add up to with the module it is of;
              "upcycled" is a mixture of copies of what it replaces.
    shape:    of the tensor that it is given, batch first.
    std:      spread of its kernels; None for what the constructors, or the template, give.
    twins:    how many hidden channels of a zero start carry one signal.
    expected: it keeps the function only in expectation: a BatchNorm is set from one batch.
    options:  what else its values depend on, as JSON.
    template: a module to copy instead of building one.
    """

    how: How
    place: str
    spec: Spec
    start: Start
    shape: tuple[int, ...] = ()
    std: float | None = None
    twins: int = 2
    expected: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    template: nn.Module | None = field(default=None, repr=False)


def key_of(edits: Sequence[ModuleEdit], number: int) -> str:
    """The name under which the numbers of one of a plan's modules are drawn: files rest on it."""
    return f"{edits[0].place}|{number}"
