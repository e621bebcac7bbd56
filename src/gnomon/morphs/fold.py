"""Fold: an R2R block in another form, or in ordinary layers, computing the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from gnomon.blocks import R2RBlock
from gnomon.edit import ModuleEdit
from gnomon.errors import Unsupported
from gnomon.flops import block_flops, grown_flops
from gnomon.morphs.places import find, only_visit
from gnomon.morphs.subject import Subject
from gnomon.plan import Plan
from gnomon.rules import R2R
from gnomon.spec import describe

Form = Literal["native", "concatenated", "parallel"]


@dataclass(frozen=True)
class Fold:
    """Bring the `R2RBlock` at a path into another form; optimizer state goes along.

    into: "native" replaces it by ordinary layers, when no more blocks are to come;
          "concatenated" and "parallel" switch how it is computed and keep its parameters.

    Raises ValueError for another form.
    """

    where: str
    into: Form = "native"

    def __post_init__(self) -> None:
        if not isinstance(self.where, str) or not self.where:
            raise ValueError(f"where must be the path of a block, not {self.where!r}")
        if self.into not in ("native", "concatenated", "parallel"):
            raise ValueError(
                f"into must be 'native', 'concatenated' or 'parallel', not {self.into!r}"
            )

    def __str__(self) -> str:
        return f"Fold({self.where!r}, into={self.into!r})"

    def plan(self, subject: Subject, seed: int) -> Plan:
        """The replacement. Raises Unsupported for what is no R2RBlock, or cannot be one layer."""
        block = find(subject.model, self.where)
        if not isinstance(block, R2RBlock):
            raise Unsupported(
                f"{self} cannot be done: '{self.where}' is a {type(block).__name__}, not a "
                f"gnomon.R2RBlock"
            )
        (x,) = only_visit(subject, block, self.where).inputs
        assert isinstance(x, Tensor)
        if self.into == block.form:
            raise Unsupported(f"{self} cannot be done: it has this form already")
        spec, more, work = describe(block), 0, 0
        if self.into == "native":
            native = block.native()[0]
            spec, more = describe(native), _size(native) - _size(block)
            work = block_flops(native, x.shape) - block_flops(block, x.shape)
        else:
            spec["arguments"]["form"] = self.into
        flops, _ = grown_flops(subject.analysis, {})
        return Plan(
            str(self), R2R(), seed, subject.fingerprint, {}, (), (), (),
            parameters=(subject.parameters, subject.parameters + more),
            flops=(flops, flops + work // max(1, len(x))),
            modules=(ModuleEdit("replace", self.where, spec, "folded"),),
        )  # fmt: skip


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
