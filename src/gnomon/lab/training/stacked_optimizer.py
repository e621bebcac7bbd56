"""One optimizer for networks that are trained together: made from theirs, and split again.

It acts entry by entry, so that each network moves as with an optimizer of its own. What is one
number per tensor (the step count) or per group (the learning rate) must be the same for all.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, Optimizer, RMSprop

from gnomon.editing.first_gradients import FirstGradients
from gnomon.editing.optimizers import MOMENTS
from gnomon.lab.errors import LabError

ENTRYWISE = (SGD, Adam, AdamW, RMSprop, Adagrad, Adamax, Adadelta)
_HELD = ("params", "param_names")


def stacked_optimizer(
    models: Sequence[nn.Module], optimizers: Sequence[Optimizer], stacked: Mapping[str, Tensor]
) -> Optimizer:
    """Return one optimizer for the stacked parameters, in the state that the given ones are in.

    Raises LabError for an optimizer that does not act entry by entry, and for different states.
    """
    if len(optimizers) != len(models):
        raise LabError(
            f"{len(models)} networks cannot be trained with {len(optimizers)} optimizers: give "
            "one for each, in the same order."
        )
    _refuse_foreign(optimizers)
    pairs = list(zip(models, optimizers, strict=True))
    _same("hyperparameters", [list(_groups(model, optimizer)) for model, optimizer in pairs])
    one = copy.copy(optimizers[0])  # not by its constructor, which may refuse its own defaults
    one.state, one.param_groups = type(one.state)(dict), []
    for names, values in _groups(*pairs[0]):
        one.param_groups.append({**values, "params": [stacked[name] for name in names]})
    own = [dict(model.named_parameters()) for model in models]
    for name, whole in stacked.items():
        states = [o.state.get(p[name], {}) for o, p in zip(optimizers, own, strict=True)]
        if any(states):
            one.state[whole] = dict(_stacked_state(name, states))
    _stack_first_gradients(one, optimizers, own, stacked)
    return one


def split_optimizer(
    one: Optimizer,
    stacked: Mapping[str, Tensor],
    model: nn.Module,
    optimizer: Optimizer,
    index: int,
) -> None:
    """Bring the optimizer of one network to where the stacked one is."""
    for group, own in zip(one.param_groups, optimizer.param_groups, strict=True):
        own.update({k: _copied(v) for k, v in group.items() if k not in _HELD})
    hook, all_hooks = FirstGradients.on(optimizer), FirstGradients.on(one)
    for name, parameter in model.named_parameters():
        whole = stacked[name]
        if whole in one.state:
            state = one.state[whole].items()
            optimizer.state[parameter] = {k: _split(k, v, parameter, index) for k, v in state}
        if hook is not None and all_hooks is not None:
            hook._waiting.pop(parameter, None)
            if whole in all_hooks._waiting:
                waiting = all_hooks._waiting[whole]
                hook._waiting[parameter] = [(new[index].clone(), n) for new, n in waiting]
            if whole not in all_hooks._stateless:
                hook._stateless.pop(parameter, None)


def _refuse_foreign(optimizers: Sequence[Optimizer]) -> None:
    for optimizer in optimizers:
        kind = type(optimizer)
        if kind not in ENTRYWISE or kind is not type(optimizers[0]):
            raise LabError(
                f"{kind.__name__} beside {type(optimizers[0]).__name__} cannot train networks "
                f"together: use one of {', '.join(k.__name__ for k in ENTRYWISE)} for all."
            )
        before, after = optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks
        if any(not isinstance(h, FirstGradients) for h in (*before.values(), *after.values())):
            raise LabError(
                f"{kind.__name__} with step hooks cannot train networks together: the hooks know "
                "one network. Remove them and register them on the stacked optimizer."
            )


def _groups(model: nn.Module, optimizer: Optimizer) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """Per group the names of its parameters and its hyperparameters."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        if any(id(p) not in names for p in group["params"]):
            raise LabError(
                f"An {type(optimizer).__name__} that holds parameters of another network cannot "
                "train this one: give models and optimizers in the same order."
            )
        values = {k: _copied(v) for k, v in group.items() if k not in _HELD}
        yield [names[id(p)] for p in group["params"]], values


def _stacked_state(name: str, states: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
    _same(f"state of '{name}'", [list(state) for state in states])
    for key, first in states[0].items():
        values = [state[key] for state in states]
        if key in MOMENTS and isinstance(first, Tensor):
            yield key, torch.stack(values)
        else:
            _same(f"'{key}' of '{name}'", values)
            yield key, _copied(first)


def _split(key: str, value: Any, parameter: Tensor, index: int) -> Any:
    if key in MOMENTS and isinstance(value, Tensor):
        return torch.empty_like(parameter, dtype=value.dtype).copy_(value[index]).detach()
    return _copied(value)


def _stack_first_gradients(
    one: Optimizer,
    optimizers: Sequence[Optimizer],
    own: Sequence[Mapping[str, Tensor]],
    stacked: Mapping[str, Tensor],
) -> None:
    """Let the new entries of networks that have just grown wait for first gradients on."""
    hooks = [FirstGradients.on(optimizer) for optimizer in optimizers]
    known = [hook or FirstGradients() for hook in hooks]
    if not any(hooks):
        return
    joined, _ = FirstGradients.of(one)
    for name, whole in stacked.items():
        pairs = list(zip(known, own, strict=True))
        waiting = [hook._waiting.get(p[name], []) for hook, p in pairs]
        _same(f"steps since the growth of '{name}'", [[n for _, n in w] for w in waiting])
        _same(f"first step of '{name}'", [p[name] in hook._stateless for hook, p in pairs])
        if waiting[0]:
            masks = zip(*([new for new, _ in w] for w in waiting), strict=True)
            steps = [n for _, n in waiting[0]]
            joined._waiting[whole] = list(zip(map(torch.stack, masks), steps, strict=True))
        if own[0][name] in known[0]._stateless:
            joined._stateless[whole] = None


def _same(what: str, values: Sequence[object]) -> None:
    for i, value in enumerate(values):
        if not _equal(value, values[0]):
            raise LabError(
                f"Optimizers 0 and {i} cannot become one: the {what} differ ({values[0]} and "
                f"{value}). Stack networks that were trained alike."
            )


def _equal(a: object, b: object) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    return type(a) is type(b) and a == b


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value
