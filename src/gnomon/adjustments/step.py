"""One step of an optimizer under a course: its gradients before, what new entries moved behind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim import (
    SGD,
    Adadelta,
    Adafactor,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    Muon,
    NAdam,
    Optimizer,
    RAdam,
    RMSprop,
)

from gnomon.adjustments.comparison import size_of
from gnomon.adjustments.course import Course, Young
from gnomon.adjustments.view import View

COUPLED = (SGD, Adam, NAdam, RAdam, Adamax, RMSprop, Adagrad, Adadelta)
DECOUPLED = (AdamW, Adafactor, Muon)


def decouples(optimizer: Optimizer, group: dict[str, Any]) -> bool | None:
    """Whether weight decay moves weights directly, or through gradients; None if unknown."""
    if "decoupled_weight_decay" in group:
        return bool(group["decoupled_weight_decay"])
    if isinstance(optimizer, DECOUPLED):
        return True
    return False if isinstance(optimizer, COUPLED) else None


class Step:
    """What must be known at the end of a step about its beginning.

    scale: what gradients are multiplied by, for optimizers that divide by it themselves.
    """

    def __init__(self, optimizer: Optimizer, course: Course, scale: float) -> None:
        self.course, self.view, self._scale = course, View(optimizer, course), scale
        self._kind, self._groups = optimizer, self.view.group_of()
        self._size: Tensor | None = None
        self._swapped: list[tuple[Tensor, Tensor, Tensor]] = []
        self._before = {
            parameter: parameter.detach().clone(memory_format=torch.preserve_format)
            for young, parameter, _ in self._entries()
            if young.factor != 1 or young.decay != 1
        }

    def _entries(self) -> Iterator[tuple[Young, Tensor, Tensor | None]]:
        for young in self.course.young:
            for parameter, mask in young.entries.items():
                if id(parameter) in self._groups:
                    yield young, parameter, mask

    def look(self) -> None:
        """Gradients are there: measure them, and scale the decay that goes through them."""
        if self.course.comparison is not None and self._size is None:
            held = (p for g in self.view.optimizer.param_groups for p in g["params"])
            self._size = size_of((p.grad for p in held), self._scale)
        for young, parameter, mask in self._entries():
            group = self._groups[id(parameter)]
            decay, gradient = group.get("weight_decay") or 0, parameter.grad
            if young.decay == 1 or not decay or gradient is None or gradient.is_sparse:
                continue
            if decouples(self._kind, group) is False:
                share = decay * (young.decay - 1) * self._scale
                more = parameter.detach() * (-share if group.get("maximize") else share)
                new = gradient + (more if mask is None else more.where(mask, 0)).to(gradient)
                self._swapped.append((parameter, gradient, new))
                parameter.grad = new

    def give_back_gradients(self) -> None:
        """Put the gradients back that are still this step's; a new backward made new ones."""
        while self._swapped:
            parameter, gradient, new = self._swapped.pop()
            if parameter.grad is new:
                parameter.grad = gradient

    def end(self) -> Course:
        """Bring the steps of new entries to their share; returns the course of the next step."""
        self.give_back_gradients()
        for young, parameter, mask in self._entries():
            if parameter in self._before and parameter.grad is not None:
                self._shorten(young, parameter, mask)
        return self.course.stepped(self._size)

    def _shorten(self, young: Young, parameter: Tensor, mask: Tensor | None) -> None:
        """new = before + factor (change, without the decay that these entries do not get)."""
        group = self._groups[id(parameter)]
        exact = torch.float32 if parameter.dtype.itemsize < 4 else parameter.dtype
        before, now = self._before[parameter].to(exact), parameter.detach().to(exact)
        change = now - before
        decay = group.get("weight_decay") or 0
        if decay and young.decay != 1 and decouples(self._kind, group):
            change += before * (group["lr"] * decay * (1 - young.decay))
        new = before + young.factor * change
        parameter.detach().copy_(new if mask is None else torch.where(mask, new, now))
