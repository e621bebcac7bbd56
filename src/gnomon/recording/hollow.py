"""Build a model without its weights: parameters on `meta`, buffers with their numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from torch import nn
from torch.nn.parameter import is_lazy


@contextlib.contextmanager
def without_weights() -> Iterator[None]:
    """Parameters that modules register go to `meta`, so that none is filled or kept.

    Buffers stay: those outside of the state_dict are in no file, only the constructor knows them.
    """
    register = nn.Module.register_parameter

    def hollow(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and not param.is_meta and not is_lazy(param):
            param = nn.Parameter(param.detach().to("meta"), requires_grad=param.requires_grad)
        register(self, name, param)

    nn.Module.register_parameter = hollow  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def built(make: Callable[[], nn.Module], *, hollow: bool) -> nn.Module:
    """What `make` makes; without weights if asked and if its constructor does without."""
    if hollow:
        with contextlib.suppress(Exception), without_weights():
            return make()
    return make()
