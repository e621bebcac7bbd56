"""Fold: a block or a P-activation into ordinary layers, computing the same."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from gnomon.activations import PActivation, PBatchNorm
from gnomon.blocks import R2RBlock
from gnomon.errors import GrowthError, Unsupported
from gnomon.morphs.places import find, only_visit
from gnomon.morphs.subject import Subject
from gnomon.planning.edit import ModuleEdit
from gnomon.planning.plan import Plan
from gnomon.planning.spec import Spec, describe, path_of
from gnomon.rules import R2R

Form = Literal["native", "concatenated", "parallel"]


@dataclass(frozen=True)
class Fold:
    """Bring the `R2RBlock` at a path into another form; optimizer state goes along.

    Also a `PActivation` or `PBatchNorm` whose gates have arrived at 0 or 1, into the plain one.

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
        """The replacement. Raises Unsupported for what cannot fold, or not yet."""
        module = find(subject.model, self.where)
        (x,) = only_visit(subject, module, self.where).inputs
        assert isinstance(x, Tensor)
        try:
            spec, plain = self._folded(module)
        except GrowthError as refusal:
            raise type(refusal)(f"{self} cannot be done: {refusal}") from None
        costs = subject.costs(plain, x.shape, old=module)
        options = {} if self.into == "native" else {"form": self.into}
        return Plan(
            str(self), R2R(), seed, subject.fingerprint, {}, (), (), (),
            parameters=costs.parameters,
            flops=costs.flops,
            modules=(ModuleEdit("replace", self.where, spec, "folded", options=options),),
        )  # fmt: skip

    def _folded(self, module: nn.Module) -> tuple[Spec, nn.Module]:
        """What will stand there: its spec, and a module of its shapes."""
        if isinstance(module, PActivation | PBatchNorm):
            if self.into != "native":
                raise Unsupported(f"a {type(module).__name__} folds into='native' only")
            plain = copy.deepcopy(module).fold()
            return describe(plain), plain
        if not isinstance(module, R2RBlock):
            raise Unsupported(
                f"'{self.where}' is a {type(module).__name__}, not a gnomon.R2RBlock, PActivation "
                f"or PBatchNorm"
            )
        if self.into == module.form:
            raise Unsupported("it has this form already")
        if self.into == "native":
            plain = module.native()[0]
            return describe(plain), plain
        return {"class": path_of(R2RBlock), "arguments": {}}, module
