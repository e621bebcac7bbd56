"""Bring new parameters into the optimizers that hold their neighbours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

Undo = Callable[[], None]


def join(
    optimizers: Sequence[Optimizer], model: nn.Module, new: Mapping[str, nn.Parameter]
) -> Iterator[Undo]:
    """Add each new parameter to the group of the nearest one of its kind.

    Near in the order of the model's parameters, rather before it than behind; of its kind: kernels
    to kernels, vectors (biases, gains) to vectors, since recipes often treat those differently.
    They get no state, hence their own step count. new: parameters of the model by name. Yields
    the undo of each as soon as it is done.
    """
    groups = {
        id(p): group
        for optimizer in optimizers
        for group in optimizer.param_groups
        for p in group["params"]
    }
    order = list(dict(model.named_parameters()).items())
    fresh = {id(p) for p in new.values()}
    old = [(i, p) for i, (_, p) in enumerate(order) if id(p) in groups and id(p) not in fresh]
    for i, (name, parameter) in enumerate(order):
        if id(parameter) in fresh and old:
            yield _add(groups[id(_nearest(old, i, parameter))], name, parameter)


def _nearest(old: Sequence[tuple[int, Tensor]], place: int, new: Tensor) -> Tensor:
    """Of its kind, and rather before than behind: a block must not be torn between groups."""
    return min(old, key=lambda o: (not _alike(o[1], new), o[0] > place, abs(o[0] - place)))[1]


def _alike(one: Tensor, other: Tensor) -> bool:
    return (one.dim() > 1) == (other.dim() > 1)


def _add(group: dict[str, Any], name: str, parameter: nn.Parameter) -> Undo:
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
