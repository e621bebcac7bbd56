"""NewGroup: parameters that are new as a whole get a param group of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor
from torch.optim import Optimizer

from gnomon.adjustments.base import Adjustment, Growth, check_number, check_rate
from gnomon.adjustments.course import Apart, Course
from gnomon.errors import Unsupported

Plain = bool | int | float | str | None
Option = Plain | tuple[Plain, ...]


@dataclass(frozen=True, init=False)
class NewGroup(Adjustment):
    """Whole new parameters (of Deepen, Factor, Branch) get these options instead of their
    neighbours'.

    lr:      their rate at the growth; from there it goes as their neighbours' does, so that it
             follows every scheduler. Other options (weight_decay=, betas=, ...) stay as they are.

    Only the optimizer's steps see the group: in `optimizer.param_groups` the parameters are listed
    with their neighbours. So schedulers, which count groups when they are made, and checkpoints,
    which number parameters, need not know of it. Each growth makes a group of its own.

    Source: `torch.optim`'s per-parameter options.
    """

    options: Mapping[str, Option]

    def __init__(self, **options: Option) -> None:
        object.__setattr__(self, "options", dict(options))
        if not options:
            raise ValueError("NewGroup() needs an option that differs, such as weight_decay=0.0")
        for name, value in options.items():
            if name in ("params", "param_names", "initial_lr"):
                raise ValueError(f"NewGroup({name}=...) is not an option of a param group")
            several = value if isinstance(value, tuple) else (value,)
            if not all(one is None or isinstance(one, bool | int | float | str) for one in several):
                raise ValueError(f"{name} must be a number or a tuple of them, not {value!r}")
        if "lr" in options:
            check_number("lr", options["lr"], least=0)

    def __repr__(self) -> str:
        return f"NewGroup({', '.join(f'{k}={v!r}' for k, v in self.options.items())})"

    def __hash__(self) -> int:
        return hash(tuple(self.options.items()))

    def check(self, optimizer: Optimizer) -> None:
        """It must know the options."""
        name = type(optimizer).__name__
        unknown = sorted(self.options.keys() - optimizer.defaults.keys())
        if unknown:
            raise Unsupported(f"{self!r}: {name} has no option {', '.join(unknown)}")
        if "lr" in self.options:
            check_rate(repr(self), optimizer)

    def ready(self, optimizer: Optimizer) -> None:
        """A rate relative to zero is not known."""
        if "lr" in self.options and any(not float(g["lr"]) for g in optimizer.param_groups):
            raise Unsupported(
                f"{self!r}: a group's learning rate is 0 now, so new parameters cannot keep theirs "
                f"in proportion to it: grow a step earlier or later, or leave lr out"
            )

    def changed(self, course: Course, optimizer: Optimizer, growth: Growth) -> Course:
        """The new parameters of each group stand apart."""
        new = {id(p) for p in growth.new}
        options = {k: v for k, v in self.options.items() if k != "lr"}
        found = []
        for group in optimizer.param_groups:
            params: tuple[Tensor, ...] = tuple(p for p in group["params"] if id(p) in new)
            lr = self.options.get("lr")
            rate = 1.0 if lr is None else float(str(lr)) / float(group["lr"])
            if params:
                found.append(Apart(params, options, rate))
        return replace(course, apart=(*course.apart, *found))
