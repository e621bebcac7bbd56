"""The optimizer as one step sees it: the same parameters and state, at other rates.

A step is run on a stand-in that shares everything but the param groups. So the real groups never
hold a rate that is only meant for a step: schedulers read and write theirs as if nothing were
there, and a step that raises leaves nothing to put back. (Changing `group["lr"]` in a hook before
the step and restoring it in one behind it does not: PyTorch runs no hook behind a step that raises,
and a scheduler in chained form would then take the changed rate for its own.)
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from gnomon.adjustments.course import Apart, Course

Group = dict[str, Any]
_OWN = ("param_groups", "step", "_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")


class View:
    """A stand-in for an optimizer during one step, and what it needs to give back."""

    def __init__(self, optimizer: Optimizer, course: Course) -> None:
        self._given = [dict(group) for group in optimizer.param_groups]
        self._main: list[Group] = []
        groups: list[Group] = []
        for group in optimizer.param_groups:
            seen = split(group, course)
            self._main.append(seen[0])
            groups += seen
        self.optimizer: Optimizer = object.__new__(type(optimizer))
        self._attributes = {k: v for k, v in vars(optimizer).items() if k not in _OWN}
        vars(self.optimizer).update(self._attributes)
        self.optimizer.param_groups = groups
        hooks: dict[str, Any] = {name: OrderedDict() for name in _OWN if name.endswith("hooks")}
        vars(self.optimizer).update(hooks)  # a step that calls its parent's would run them again

    def group_of(self) -> dict[int, Group]:
        """The group of each parameter, by id."""
        return {id(p): g for g in self.optimizer.param_groups for p in g["params"]}

    def give_back(self, optimizer: Optimizer) -> None:
        """Let the optimizer have what the step wrote on itself and on its groups."""
        for key, value in vars(self.optimizer).items():
            if key not in _OWN and value is not self._attributes.get(key):
                setattr(optimizer, key, value)
        several = zip(optimizer.param_groups, self._given, self._main, strict=True)
        for group, given, seen in several:
            for key, value in seen.items():
                if key not in ("params", "param_names", "lr") and value is not given.get(key):
                    group[key] = value


def split(group: Group, course: Course) -> list[Group]:
    """A group at the rate of a step, and behind it groups of those that stand apart."""
    home = {id(p): one for one in course.apart for p in one.params}
    main = {**group, "lr": times(group.get("lr"), course.rate)}
    main["params"] = [p for p in group["params"] if id(p) not in home]
    found: list[Group] = [main]
    for one in course.apart:
        own: list[Tensor] = [p for p in group["params"] if home.get(id(p)) is one]
        if own:
            found.append({**group, **_options(one, group, course), "params": own})
    return found


def _options(one: Apart, group: Group, course: Course) -> Group:
    return {**one.options, "lr": times(group.get("lr"), course.rate * one.rate)}


def times(rate: Any, factor: float) -> Any:
    """A learning rate, number or tensor, times a factor: itself where that is 1."""
    return rate if factor == 1 or rate is None else rate * factor
