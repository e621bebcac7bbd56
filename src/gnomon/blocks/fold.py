"""Carry gradients and optimizer state from the blocks' parameters to the folded ones.

The next step of an optimizer that works entry by entry is then, bit for bit, the one that the
blocks would have made of the same gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adadelta, Adagrad, Adam, Adamax, Optimizer, RMSprop

from gnomon.blocks.native import Piece
from gnomon.editing.optimizers import MOMENTS, check_state
from gnomon.errors import Unsupported

Pieces = Mapping[str, Sequence[Piece]]
State = Mapping[str, Any]

BETAS = {"exp_avg": 0, "exp_avg_sq": 1, "max_exp_avg_sq": 1}  # which beta corrects it
COUNTING = (Adam, Adamax, RMSprop, Adadelta, Adagrad)  # whose step count only corrects and counts


def carry_gradients(block: nn.Module, folded: nn.Module, pieces: Pieces) -> None:
    """Give each folded parameter the gradients of its pieces; zeros where some have none."""
    old = dict(block.named_parameters())
    for name, parameter in folded.named_parameters():
        gradients = [old[piece.name].grad for piece in pieces[name]]
        if any(gradient is not None for gradient in gradients):
            parameter.grad = _joined(gradients, pieces[name], parameter, 0.0)


def carry(
    optimizer: Optimizer,
    block: nn.Module,
    folded: nn.Module,
    pieces: Pieces,
    undo: list[Callable[[], None]],
) -> None:
    """Let the folded parameters take the place of the block's in an optimizer, with their state.

    A folded parameter stands where its first piece stood; groups keep their number, so that a
    scheduler's list of rates still fits. State of the parameter's shape is laid out as the weights
    are. New entries (blocks without state beside others with some, the rims of small kernels) get
    no momentum and, for second moments, the mean of the others: zeros would let Adam kick them.

    If the pieces' step counts differ, the largest counts, and Adam's moments are rescaled so that
    their bias-corrected estimates stay what they are; later steps weigh the past by the new count.

    undo: gets functions that put everything back; call them newest first.
    Raises Unsupported before anything is changed: pieces that are only partly in the optimizer, or
    in groups with different options, and state that cannot be joined.
    """
    check_state(optimizer)
    old = dict(block.named_parameters())
    moves = []
    for name, parameter in folded.named_parameters():
        olds = [old[piece.name] for piece in pieces[name]]
        group = _common_group(optimizer, olds, pieces[name])
        if group is not None:
            states = [optimizer.state.get(p, {}) for p in olds]
            state = _folded_state(optimizer, group, states, pieces[name], parameter)
            moves.append((name, parameter, olds, state))
    for name, parameter, olds, state in moves:
        for group in optimizer.param_groups:
            undo.append(_replace(group, olds, parameter, pieces[name][0].name, name))
        undo.append(_exchange(optimizer, olds, parameter, state))


def _joined(
    values: Sequence[Tensor | None], pieces: Sequence[Piece], like: Tensor, start: float
) -> Tensor:
    """Values in the places of their pieces, `start` where there is none."""
    first = next(value for value in values if value is not None)
    new = torch.full_like(like, start, dtype=first.dtype, device=first.device, requires_grad=False)
    for value, piece in zip(values, pieces, strict=True):
        if value is not None:
            new[piece.place] = value
    return new


def _common_group(
    optimizer: Optimizer, olds: Sequence[Tensor], pieces: Sequence[Piece]
) -> Mapping[str, Any] | None:
    """The group of the first piece; None if the optimizer has none of them."""
    homes = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    groups = [homes.get(id(p)) for p in olds]
    if all(group is None for group in groups):
        return None
    first = groups[0]
    for group, piece in zip(groups, pieces, strict=True):
        if group is None or first is None:
            raise Unsupported(
                f"'{(piece if group is None else pieces[0]).name}' is not in the "
                f"{type(optimizer).__name__} that trains the other blocks, so it cannot fold with "
                f"them: optimizer.add_param_group({{'params': ...}}) first"
            )
        for option, value in _options(first).items():
            if _options(group).get(option) != value:
                raise Unsupported(
                    f"'{pieces[0].name}' and '{piece.name}' are in groups with different "
                    f"'{option}' ({value} and {_options(group).get(option)}), which one parameter "
                    f"cannot have: make them equal first, or keep form 'concatenated'"
                )
    return first


def _options(group: Mapping[str, Any]) -> dict[str, object]:
    plain = {k: v for k, v in group.items() if k not in ("params", "param_names")}
    return {k: v.tolist() if isinstance(v, Tensor) else v for k, v in plain.items()}


def _folded_state(
    optimizer: Optimizer,
    group: Mapping[str, Any],
    states: Sequence[State],
    pieces: Sequence[Piece],
    parameter: Tensor,
) -> dict[str, Any]:
    """The state of a folded parameter; empty if none of its pieces took a step yet."""
    states = [state if float(state.get("step", 1)) else {} for state in states]
    known = [state for state in states if state]
    if not known:
        return {}
    latest = max(known, key=lambda state: float(state.get("step", 0)))
    _check_counts(optimizer, group, known, pieces)
    folded = {}
    for key, value in latest.items():
        if not isinstance(value, Tensor) or value.dim() == 0:
            folded[key] = value.clone() if isinstance(value, Tensor) else value
            continue
        values = [_corrected(state, key, latest, group) for state in states]
        folded[key] = _joined(values, pieces, parameter, _start(optimizer, key, values, pieces))
    return folded


def _check_counts(
    optimizer: Optimizer,
    group: Mapping[str, Any],
    known: Sequence[State],
    pieces: Sequence[Piece],
) -> None:
    """Raise Unsupported if the pieces' states cannot be one state."""
    name = type(optimizer).__name__
    for state in known:
        if state.keys() != known[0].keys():
            raise Unsupported(f"{name} keeps different state for the pieces of {pieces[0].name}")
        for key, value in state.items():
            plain = not isinstance(value, Tensor) or value.dim() == 0
            if not plain or _number(value) == _number(known[0][key]):
                continue
            if key == "step" and isinstance(optimizer, COUNTING) and not group.get("lr_decay"):
                continue
            raise Unsupported(
                f"{name} has different '{key}' for the pieces of '{pieces[0].name}' "
                f"({_number(known[0][key])} and {_number(value)}), and its next step depends on "
                f"it: keep form 'concatenated', where each block has its own"
            )


def _number(value: object) -> object:
    return value.item() if isinstance(value, Tensor) else value


def _corrected(state: State, key: str, latest: State, group: Mapping[str, Any]) -> Tensor | None:
    """A moment whose bias-corrected estimate at the latest count is what it is at its own."""
    if not state:
        return None
    value: Tensor = state[key]
    own, last = float(state.get("step", 0)), float(latest.get("step", 0))
    if own == last or key not in BETAS or "betas" not in group:
        return value
    beta = float(group["betas"][BETAS[key]])
    scale = (1 - beta**last) / (1 - beta**own)
    corrected: Tensor = value * scale
    return corrected


def _start(
    optimizer: Optimizer, key: str, values: Sequence[Tensor | None], pieces: Sequence[Piece]
) -> float:
    """What entries without a past start with."""
    moment = MOMENTS.get(key)
    if moment is None:
        raise Unsupported(
            f"{type(optimizer).__name__} keeps '{key}' for '{pieces[0].name}', which cannot be "
            f"joined; joined are {', '.join(MOMENTS)}. Make a new optimizer after folding"
        )
    if moment.start == "mean":
        known = torch.cat([value.detach().reshape(-1) for value in values if value is not None])
        return float(known.double().mean())
    return float(optimizer.defaults.get("initial_accumulator_value", 0)) if key == "sum" else 0.0


def _replace(
    group: dict[str, Any], olds: Sequence[Tensor], new: Tensor, old_name: str, new_name: str
) -> Callable[[], None]:
    """Put a parameter in the place of others, its name in the place of theirs."""
    before = {k: v for k, v in group.items() if k in ("params", "param_names")}
    gone = {id(p) for p in olds[1:]}
    kept = [i for i, p in enumerate(group["params"]) if id(p) not in gone]
    group["params"] = [new if p is olds[0] else p for p in (group["params"][i] for i in kept)]
    if "param_names" in group:
        names = [group["param_names"][i] for i in kept]
        own = [p is new for p in group["params"]]
        group["param_names"] = [
            name.removesuffix(old_name) + new_name if mine and name.endswith(old_name) else name
            for name, mine in zip(names, own, strict=True)
        ]

    def undo() -> None:
        group.update(before)

    return undo


def _exchange(
    optimizer: Optimizer, olds: Sequence[Tensor], new: Tensor, state: dict[str, Any]
) -> Callable[[], None]:
    """Drop the state of some parameters and set that of another."""
    before = dict(optimizer.state)
    for parameter in olds:
        optimizer.state.pop(parameter, None)
    if state:
        optimizer.state[new] = state

    def undo() -> None:
        optimizer.state.clear()
        optimizer.state.update(before)

    return undo
