"""Bring a small model and its fresh optimizers to where a grown run was interrupted.

What a framework's checkpoint lacks, as plain data (JSON, and masks as tensors; no pickle):

    history   the plans, with which the small model gets the grown one's modules and shapes
    groups    which parameters each optimizer holds, by name and in order: a checkpoint numbers
              them, and growing has put new ones at the ends of groups
    waiting   the entries whose second moments still follow their first gradients
    paces     what adjustments (`Timeline(after=...)`) have made of rates, and of which entries
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from gnomon.adding.additions import build_for_load, put
from gnomon.adjustments.saving import load_pace, pace_state
from gnomon.editing.first_gradients import FirstGradients
from gnomon.editing.surgery import resize
from gnomon.errors import BadCheckpoint, GrowthError
from gnomon.planning.fingerprint import structure
from gnomon.planning.plan import Plan
from gnomon.rules import Rule

Factories = Mapping[str, Callable[..., nn.Module]]
Groups = list[list[list[str | None]]]
Masks = list[dict[str, list[list[Any]]]]


@dataclass
class Progress:
    """What has happened to a model and its optimizers besides training."""

    history: tuple[Plan, ...] = ()
    groups: Groups = field(default_factory=list)
    waiting: Masks = field(default_factory=list)
    paces: list[dict[str, Any]] = field(default_factory=list)

    @staticmethod
    def of(model: nn.Module, history: Sequence[Plan], optimizers: Sequence[Optimizer]) -> Progress:
        """As it is now."""
        paces = [pace_state(model, optimizer) for optimizer in optimizers]
        if not history:
            return Progress(paces=paces if any(paces) else [])
        masks = [_waiting(model, optimizer) for optimizer in optimizers]
        return Progress(tuple(history), groups_of(model, optimizers), masks, paces)

    def state_dict(self) -> dict[str, Any]:
        """As text and tensors."""
        plain = {"history": [json.loads(p.to_json()) for p in self.history], "groups": self.groups}
        return {"plain": json.dumps(plain), "waiting": self.waiting, "paces": self.paces}

    @staticmethod
    def from_state_dict(state: Mapping[str, Any], rules: Sequence[type[Rule]] = ()) -> Progress:
        """What `state_dict` gave, of an older version too. Raises BadCheckpoint otherwise."""
        try:
            plain = json.loads(state["plain"])
            plans = [json.dumps(p) for p in plain["history"]]
            groups, masks = list(plain["groups"]), list(state["waiting"])
            paces = list(state.get("paces", ()))
        except (ValueError, KeyError, TypeError, RecursionError) as fault:
            raise BadCheckpoint(f"a growth history that cannot be read ({fault!r})") from None
        return Progress(tuple(Plan.from_json(p, rules) for p in plans), groups, masks, paces)

    def regroup(self, model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        """Bring fresh optimizers of the grown model to the groups of then, and wait again."""
        if self.history:
            regroup(model, optimizers, self.groups)
            for optimizer, masks in zip(optimizers, self.waiting, strict=True):
                _wait(model, optimizer, masks)
        if self.paces and len(self.paces) != len(optimizers):
            raise BadCheckpoint(
                f"the checkpoint has rates for {len(self.paces)} optimizers, not {len(optimizers)}"
            )
        for optimizer, state in zip(optimizers, self.paces, strict=False):
            load_pace(model, optimizer, state)


def replay(
    model: nn.Module, history: Iterable[Plan], blocks: Factories | None = None, most: int = 1 << 62
) -> None:
    """Give a model as it was before its first growth the modules and shapes of the grown one.

    Its values come from a checkpoint afterwards. blocks: as in `gn.load`; most: how many numbers
    the checkpoint holds, so that a tampered history cannot ask for more.
    Raises BadCheckpoint if the history belongs to another model.
    """
    for plan in history:
        if structure(model) != plan.fingerprint.partition("-")[0]:
            raise BadCheckpoint(
                f"{plan.morph} was applied to a model with other names, shapes, dtypes or classes; "
                f"resume with the model as it was before its first growth"
            )
        try:
            for edit in plan.modules:
                put(model, edit, build_for_load(model, edit, dict(blocks or {}), most))
            resize(model, plan)
        except BadCheckpoint:
            raise
        except (GrowthError, RuntimeError, LookupError, TypeError, ValueError) as fault:
            raise BadCheckpoint(f"the history does not fit the model ({fault})") from None


def numbers_in(tensors: Iterable[object]) -> int:
    """How many numbers a checkpoint's tensors hold."""
    return sum(prod(t.shape) for t in tensors if isinstance(t, Tensor))


def groups_of(model: nn.Module, optimizers: Sequence[Optimizer]) -> Groups:
    """The names of what each group of each optimizer holds; None for what is not the model's."""
    names = {id(p): name for name, p in model.named_parameters()}
    return [[[names.get(id(p)) for p in g["params"]] for g in o.param_groups] for o in optimizers]


def regroup(model: nn.Module, optimizers: Sequence[Optimizer], groups: Groups) -> None:
    """Let optimizers hold these parameters in this order. Raises BadCheckpoint if they cannot."""
    own = dict(model.named_parameters())
    lost = [n for o in groups for g in o for n in g if n is not None and n not in own]
    fewer = len(groups) != len(optimizers) or any(
        len(saved) < len(o.param_groups) for o, saved in zip(optimizers, groups, strict=False)
    )
    if lost or fewer:
        raise BadCheckpoint(
            "the optimizers are not those of the checkpoint"
            + (f": {lost[:4]} are not parameters of this model" if lost else "")
        )
    for optimizer, saved in zip(optimizers, groups, strict=True):
        for _ in range(len(saved) - len(optimizer.param_groups)):
            optimizer.param_groups.append(optimizer.param_groups[0] | {"params": []})
        for group, names in zip(optimizer.param_groups, saved, strict=True):
            foreign = iter([p for p in group["params"] if all(p is not q for q in own.values())])
            try:
                group["params"] = [next(foreign) if n is None else own[n] for n in names]
            except StopIteration:
                raise BadCheckpoint("an optimizer held parameters of another model") from None
            if "param_names" in group:
                group["param_names"] = list(names)


def _waiting(model: nn.Module, optimizer: Optimizer) -> dict[str, list[list[Any]]]:
    """Per parameter, the new entries that are waited for and how many steps they had.

    None instead of entries: a whole parameter without a state.
    """
    hook = FirstGradients.on(optimizer)
    if hook is None:
        return {}
    names = {id(p): name for name, p in model.named_parameters()}
    own = [(p, w) for p, w in hook._waiting.items() if id(p) in names]
    found = {names[id(p)]: [[m, n] for m, n in w] for p, w in own}
    return found | {names[id(p)]: [[None, 0]] for p in hook._stateless if id(p) in names}


def _wait(model: nn.Module, optimizer: Optimizer, masks: dict[str, list[list[Any]]]) -> None:
    if not masks:
        return
    hook, _ = FirstGradients.of(optimizer)
    own = dict(model.named_parameters())
    for name, growths in masks.items():
        if name not in own:
            raise BadCheckpoint(f"'{name}' is not a parameter of this model")
        for entries, steps in growths:
            if entries is None:
                hook._stateless[own[name]] = None
            else:
                moved = entries.to(own[name].device)
                hook._waiting.setdefault(own[name], []).append((moved, int(steps)))
