"""A model run with float64 weights in place of its own, which it keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from gnomon.recording.kept import keepers, renew
from gnomon.recording.tape import owned_tensors


class _Renewed(nn.Module):
    """A model that computes what it keeps from pass to pass from the weights it is run with."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: object, **kwargs: object) -> object:
        for module in keepers(self.model).values():
            renew(module)
        return self.model(*args, **kwargs)


class InDouble(nn.Module):
    """The same modules, run with float64 weights in place of their own.

    began: called when a pass begins; before, modes are set, and what the modules keep from pass to
    pass may have been computed in their own dtype.
    """

    def __init__(self, model: nn.Module, *, began: Callable[[], object]) -> None:
        super().__init__()
        self.inner = inner = _Renewed(model)
        state = {n: double(t) for n, t in owned_tensors(inner).items()}

        def run(args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
            began()
            return functional_call(inner, state, args, kwargs)

        self._run = run  # what hangs on a module is copied before each pass, but not through this

    def forward(self, *args: object, **kwargs: object) -> object:
        return self._run(args, kwargs)


def double(x: Tensor) -> Tensor:
    """A copy, of floats in float64."""
    return x.detach().double() if x.is_floating_point() else x.detach().clone()
