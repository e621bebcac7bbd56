"""A model run with float64 weights in place of its own, which it keeps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from gnomon.recording.kept import keepers, renew
from gnomon.recording.tape import owned_tensors


class InDouble:
    """Runs a model's modules with float64 copies of its weights of now in place of their own.

    What they keep from pass to pass is computed from these.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._doubles = {id(t): _learning(t) for t in owned_tensors(model).values()}

    def __call__(self, *args: object, **kwargs: object) -> object:
        with _standing_in(self._model, self._doubles):
            for module in keepers(self._model).values():
                renew(module)
            return self._model(*args, **kwargs)


@contextlib.contextmanager
def _standing_in(model: nn.Module, others: Mapping[int, Tensor]) -> Iterator[None]:
    """Let other tensors stand for the model's own, by identity: one that is shared stays shared.

    As torch.func.functional_call does, which looks every one up by its path, in and out: for a
    small model that takes as long as a third of its pass.
    """
    holders: list[dict[str, Any]]
    holders = [h for m in model.modules() for h in (m._parameters, m._buffers) if h]
    own = [dict(holder) for holder in holders]
    try:
        for holder in holders:
            holder.update({n: others[id(t)] for n, t in holder.items() if t is not None})
        yield
    finally:
        for holder, content in zip(holders, own, strict=True):
            holder.clear()
            holder.update(content)


def _learning(t: Tensor) -> Tensor:
    """A double that requires gradients if its original does: with autograd on, code may ask."""
    copy = double(t)
    return copy.requires_grad_() if t.requires_grad else copy


def double(x: Tensor) -> Tensor:
    """A copy, of floats in float64."""
    return x.detach().double() if x.is_floating_point() else x.detach().clone()
