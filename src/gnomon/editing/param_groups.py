"""Bring new parameters into the optimizers that hold their neighbours."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from gnomon.activations import gates

logger = logging.getLogger("gnomon")

Undo = Callable[[], None]
Group = dict[str, Any]
Home = tuple[Optimizer, Group]


def join(
    optimizers: Sequence[Optimizer], model: nn.Module, new: Mapping[str, nn.Parameter]
) -> Iterator[Undo]:
    """Add each new parameter to the group of the nearest one of its kind.

    Near in the order of the model's parameters, rather before it than behind; of its kind: kernels
    to kernels, vectors (biases, gains) to vectors, since recipes often treat those differently.
    They get no state, hence their own step count. new: parameters of the model by name. Yields
    the undo of each as soon as it is done.
    """
    homes = _homes(optimizers)
    order = list(dict(model.named_parameters()).items())
    fresh, spared = {id(p) for p in new.values()}, {id(p) for p in gates(model).values()}
    old = [(i, p) for i, (_, p) in enumerate(order) if id(p) in homes and id(p) not in fresh]
    for i, (name, parameter) in enumerate(order):
        if id(parameter) in fresh and old:
            home = homes[id(_nearest(old, i, parameter))]
            yield from _enter(home, name, parameter, is_gate=id(parameter) in spared)


def take_place(
    optimizers: Sequence[Optimizer], old: nn.Module, new: nn.Module, path: str
) -> Iterator[Undo]:
    """Put the parameters of a module where those of one it replaces stood, kernels for kernels.

    Old parameters that it does not hold any more leave, with their state. path: where it stands.
    Yields the undo of each as soon as it is done.
    """
    homes, spared = _homes(optimizers), {id(p) for p in gates(new).values()}
    near = [p for p in old.parameters() if id(p) in homes]
    for name, parameter in new.named_parameters():
        if id(parameter) not in homes and near:
            like = next((p for p in near if _alike(p, parameter)), near[0])
            is_gate = id(parameter) in spared
            yield from _enter(homes[id(like)], f"{path}.{name}", parameter, is_gate=is_gate)
    kept = {id(p) for p in new.parameters()}
    for parameter in near:
        if id(parameter) not in kept:
            optimizer, group = homes[id(parameter)]
            yield _leave(optimizer, group, parameter)


def _homes(optimizers: Sequence[Optimizer]) -> dict[int, Home]:
    return {
        id(p): (optimizer, group)
        for optimizer in optimizers
        for group in optimizer.param_groups
        for p in group["params"]
    }


def _enter(home: Home, name: str, parameter: nn.Parameter, *, is_gate: bool) -> Iterator[Undo]:
    """Add a parameter to a group; a gate to one like it without weight decay.

    Decay would pull a gate from the identity towards its activation: that should be decided, not
    happen.
    """
    optimizer, group = home
    if is_gate and group.get("weight_decay"):
        group, undo = _without_decay(optimizer, group)
        yield undo
    yield _add(group, name, parameter)


def _without_decay(optimizer: Optimizer, like: Group) -> tuple[Group, Undo]:
    """A group like another but for its weight decay: one that is there, or a new, empty one.

    Under a learning-rate scheduler, which counted the groups when it was made, it is the other one.
    """
    for group in optimizer.param_groups:
        if not group["weight_decay"] and _options(group) == _options(like):
            return group, _nothing
    if getattr(optimizer.step, "_wrapped_by_lr_sched", False):
        logger.warning(
            "a learning-rate scheduler counts the optimizer's groups, so the new P-activations' "
            "gates stay in one with weight_decay=%s, which pulls them from the identity; make the "
            "scheduler after growing to give them a group of their own", like["weight_decay"]
        )  # fmt: skip
        return like, _nothing
    new: Group = {**_options(like), "weight_decay": 0.0, "params": []}
    if "param_names" in like:
        new["param_names"] = []
    optimizer.param_groups.append(new)

    def undo() -> None:
        place = next(i for i, group in enumerate(optimizer.param_groups) if group is new)
        del optimizer.param_groups[place]

    return new, undo


def _options(group: Group) -> Group:
    return {k: v for k, v in group.items() if k not in ("params", "param_names", "weight_decay")}


def _nothing() -> None:
    return None


def _leave(optimizer: Optimizer, group: Group, parameter: nn.Parameter) -> Undo:
    before = {k: list(v) for k, v in group.items() if k in ("params", "param_names")}
    place = next(i for i, p in enumerate(group["params"]) if p is parameter)
    for held in (group[k] for k in before):
        del held[place]
    states = dict(optimizer.state)
    optimizer.state.pop(parameter, None)

    def undo() -> None:
        for key, value in before.items():
            group[key][:] = value
        optimizer.state.clear()  # put back in the old order
        optimizer.state.update(states)

    return undo


def _nearest(old: Sequence[tuple[int, Tensor]], place: int, new: Tensor) -> Tensor:
    """Of its kind, and rather before than behind: a block must not be torn between groups."""
    return min(old, key=lambda o: (not _alike(o[1], new), o[0] > place, abs(o[0] - place)))[1]


def _alike(one: Tensor, other: Tensor) -> bool:
    return (one.dim() > 1) == (other.dim() > 1)


def _add(group: Group, name: str, parameter: nn.Parameter) -> Undo:
    params, names = group["params"], group.get("param_names")
    params.append(parameter)
    if names is not None:
        names.append(name)

    def undo() -> None:
        place = next(i for i, p in enumerate(params) if p is parameter)
        del params[place]
        if names is not None:
            del names[place]

    return undo


def rename(optimizers: Sequence[Optimizer], moved: Mapping[str, str]) -> Iterator[Undo]:
    """Bring the names that an optimizer may keep beside its parameters up to date."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            names = group.get("param_names")
            if names is not None:
                yield partial(names.__setitem__, slice(None), list(names))
                names[:] = [moved.get(name, name) for name in names]
