"""Put tensors back that a forward pass may have written on: numbers, shapes, storages, gradients.

Small models hold many tiny tensors, so what is asked of one is asked of all of them in one go.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import compress
from operator import not_
from typing import Any

import torch
from torch import Tensor, nn


def distinct(tensors: Iterable[Any]) -> list[Any]:
    """These tensors, each once, without None."""
    return list({id(t): t for t in tensors if t is not None}.values())


class Copies:
    """Tensors, each with a copy of its numbers. Those that hold no numbers are left out."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        tensors = [t for t in tensors if not t.is_meta and t.layout is torch.strided]
        plain = [t for t in tensors if type(t) is Tensor]
        special = [t for t in tensors if type(t) is not Tensor]  # each clones in its own way
        with torch.no_grad():
            copies = torch._foreach_clone(plain) if plain else []
            self._saved = [*copies, *(t.detach().clone() for t in special)]
        self._tensors = plain + special
        self._kinds, self._joined = _kinds(self._tensors), [t.requires_grad for t in self._tensors]

    def put_back(self) -> None:
        """Give every tensor its numbers, shape and type again."""
        for tensor, joined in zip(self._tensors, self._joined, strict=True):
            if tensor.requires_grad and not joined:
                tensor.detach_()  # a pass with gradients wrote an activation into it
        pairs = list(zip(self._tensors, self._saved, strict=True))
        if _kinds(self._tensors) == self._kinds:  # else torch.equal may raise
            pairs = list(compress(pairs, map(not_, map(torch.equal, self._tensors, self._saved))))
        if pairs:
            _write(pairs)


def _kinds(tensors: Sequence[Tensor]) -> list[object]:
    return [(t.dtype, t.device) for t in tensors]


@torch.no_grad()
def _write(pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Give these tensors the numbers of their copies."""
    whole: list[Tensor] = []
    numbers: list[Tensor] = []
    others: list[tuple[Tensor, Tensor]] = []
    for tensor, saved in pairs:
        if tensor.shape != saved.shape or _kinds([tensor]) != _kinds([saved]):
            tensor.data = saved.clone()  # (it may be asked for again)
        elif type(tensor) is Tensor and tensor.is_contiguous() and not _is_lazy(tensor):
            whole.append(tensor)  # for nothing where only NaN differs from itself
            numbers.append(saved)
        else:
            others.append((tensor, saved))
    if whole:
        torch._foreach_copy_(whole, numbers)
    for tensor, saved in others:  # views of those are right by now
        if not same_bits(tensor, saved):
            _once(tensor, tensor).copy_(_once(saved, tensor))


def _is_lazy(t: Tensor) -> bool:
    """Whether numbers are to be conjugated or negated when they are read: no list may hold it."""
    return t.is_conj() or t.is_neg()


def _once(t: Tensor, like: Tensor) -> Tensor:
    """One of the entries that share a place in an expanded tensor: on all nobody can write."""
    for dim, (size, stride) in enumerate(zip(like.shape, like.stride(), strict=True)):
        t = t.narrow(dim, 0, 1) if size > 1 and not stride else t
    return t


class Storages:
    """Parameters with their storages and gradients of now; numbers are the recorder's care.

    A forward that assigns `.data` replaces the storage, one that calls `backward` leaves a gradient
    where there was none, and some freeze parameters.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = [p for p in parameters if not p.is_meta]
        self._storages = [p.detach() for p in self._parameters]
        self._addresses = [s.data_ptr() for s in self._storages]
        self._shapes = [s.shape for s in self._storages]
        self._gradients = [p.grad for p in self._parameters]
        self._learn = [p.requires_grad for p in self._parameters]

    def lay_gradients_aside(self) -> None:
        """Take the gradients off until they are put back: `backward` would add to them."""
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            if gradient is not None and gradient.shape == parameter.shape:  # as ever, but on trial
                parameter.grad = None

    def put_back(self) -> None:
        """Give every parameter its storage and its gradient again, and let it learn or not."""
        parameters = self._parameters
        addresses, shapes = [p.data_ptr() for p in parameters], [p.shape for p in parameters]
        if addresses != self._addresses or shapes != self._shapes:
            self._put_storages_back()
        for parameter, gradient in zip(parameters, self._gradients, strict=True):
            if parameter.grad is not gradient:
                parameter.grad = gradient
        for parameter, learns in zip(parameters, self._learn, strict=True):
            if parameter.requires_grad is not learns:
                parameter.requires_grad_(learns)

    def _put_storages_back(self) -> None:
        of_then = zip(self._parameters, self._storages, self._addresses, strict=True)
        for parameter, storage, address in of_then:
            if parameter.data_ptr() != address or parameter.shape != storage.shape:
                with torch.no_grad():
                    parameter.set_(storage)  # type: ignore[call-overload]


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one shape hold the same numbers, NaN in the same places."""
    if a.dtype == b.dtype and a.device == b.device and torch.equal(a, b):
        return True  # the rule; with NaN in it a tensor is not equal to itself
    return bool(((a == b) | ((a != a) & (b != b))).all())
