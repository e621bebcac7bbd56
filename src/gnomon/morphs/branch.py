"""Branch: one layer as parallel paths that together compute the same."""

from __future__ import annotations

from dataclasses import dataclass

from gnomon.adding.branching import Branches, branched, options_of
from gnomon.adding.plain_layer import layer_of
from gnomon.errors import GrowthError
from gnomon.morphs.factor import refuse_misfit, refuse_tied
from gnomon.morphs.places import find, input_of, only_visit
from gnomon.morphs.subject import Subject
from gnomon.planning.edit import ModuleEdit
from gnomon.planning.plan import Plan
from gnomon.planning.spec import describe
from gnomon.rules import NetMorph

Kernel = int | tuple[int, ...]


@dataclass(frozen=True)
class Branch:
    """A linear or convolutional layer as paths side by side, in its place.

    paths: how many of the layer's own kernel, or the kernel of each. Their outputs are added, and
           their weights add up to the layer's: equal shares and noise, the largest takes the rest.
    noise: of the shares, in standard deviations of the weights; 0 for equal shares, which are
           copies of each other and learn alike for ever.
    widths: channels of each path; then they are concatenated and mixed by a 1x1 layer, as in
           Inception, instead of added.
    zero:  hidden channels of one more path, an R2RBlock that starts at zero; with paths=1 the
           layer itself stays beside it, its parameters and their state untouched.

    Each path can be factored afterwards: Factor("layer.paths.0", ...).
    Raises ValueError if the request makes no sense for any layer.
    Source: Wei et al. 2016, section 3.4.3.
    """

    where: str
    paths: int | tuple[Kernel, ...] = 2
    noise: float = 1.0
    widths: tuple[int, ...] | None = None
    zero: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.where, str) or not self.where:
            raise ValueError(f"where must be the path of a layer, not {self.where!r}")
        count = len(self.paths) if isinstance(self.paths, tuple) else self.paths
        if type(count) is not int or count < (1 if self.zero else 2):
            raise ValueError(f"paths must be two or more (one beside zero=), not {self.paths!r}")
        if isinstance(self.paths, tuple):
            flat = [n for k in self.paths for n in (k if isinstance(k, tuple) else (k,))]
            if any(type(n) is not int or n < 1 for n in flat):
                raise ValueError(f"kernels must be whole numbers above 0, not {self.paths!r}")
        if not self.noise >= 0:
            raise ValueError(f"noise must not be negative, not {self.noise!r}")
        if type(self.zero) is not int or self.zero < 0 or self.zero == 1:
            raise ValueError(f"zero must be 0 or a width of two or more, not {self.zero!r}")
        if self.widths is not None and (
            len(self.widths) != count or any(type(n) is not int or n < 1 for n in self.widths)
        ):
            raise ValueError(f"widths must be {count} whole numbers above 0, not {self.widths!r}")

    def __str__(self) -> str:
        joined = f", widths={self.widths}" if self.widths else ""
        zero = f", zero={self.zero}" if self.zero else ""
        return f"Branch({self.where!r}, paths={self.paths}{joined}{zero})"

    def plan(self, subject: Subject, seed: int) -> Plan:
        """The replacement, its weights still to be drawn. Raises GrowthError."""
        module = find(subject.model, self.where)
        try:
            layer = layer_of(module)
            visit = only_visit(subject, module, self.where)
            x = input_of(visit)
            how = self._how(len(layer.kernel), layer.kernel)
            made = branched(module, how, None)
            refuse_tied(subject, module, self.where)
            refuse_misfit(subject, self.where, made)
        except GrowthError as refusal:
            raise type(refusal)(f"{self} cannot be done: {refusal}") from None
        costs = subject.costs(made, x.shape, old=module)
        edit = ModuleEdit(
            "replace", self.where, describe(made), "branched", options=options_of(how)
        )
        return Plan(
            str(self), NetMorph(), seed, subject.fingerprint, {}, (), (), (),
            parameters=costs.parameters,
            flops=costs.flops,
            modules=(edit,),
        )  # fmt: skip

    def _how(self, dims: int, own: tuple[int, ...]) -> Branches:
        several = self.paths if isinstance(self.paths, tuple) else (own,) * self.paths
        kernels = tuple(k if isinstance(k, tuple) else (k,) * dims for k in several)
        return Branches(kernels, self.noise, self.widths, self.zero)
