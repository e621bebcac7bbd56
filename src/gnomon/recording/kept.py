"""Tensors that modules keep from pass to pass, beside parameters and buffers.

Some models compute a tensor from their parameters once in eval mode and use it until a mode is
set: their `train` drops it, or computes it anew (the biases of LeViT's attention). What was kept
so has the old widths after a growth, and hides its parameters from a recording.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

_NESTED = (dict, list, tuple)
_REGISTERED = ("_parameters", "_buffers", "_modules")


def kept_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The tensors in a module's own attributes and the containers there, by what holds them."""
    found: dict[str, Tensor] = {}
    for name, value in module.__dict__.items():
        holds = isinstance(value, Tensor) or (isinstance(value, _NESTED) and value)
        if holds and name not in _REGISTERED:
            found |= dict(_tensors(name, value))
    return found


def all_kept(model: nn.Module) -> dict[int, str]:
    """What holds each tensor (by its id) that the modules of a model keep."""
    return {
        id(tensor): f"{name}.{key}".removeprefix(".")
        for name, module in model.named_modules()
        for key, tensor in kept_tensors(module).items()
    }


def _tensors(name: str, value: object) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        if not isinstance(value, nn.Parameter):
            yield name, value
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from _tensors(f"{name}[{key!r}]", one)
    elif isinstance(value, list | tuple):
        for i, one in enumerate(value):
            yield from _tensors(f"{name}[{i}]", one)


def keepers(model: nn.Module) -> dict[str, nn.Module]:
    """The modules in eval mode that keep tensors and have a say when a mode is set, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if not module.training and has_say(module) and kept_tensors(module)
    }


def has_say(module: nn.Module) -> bool:
    """Whether a module does something of its own when a mode is set."""
    return type(module).train is not nn.Module.train or "train" in module.__dict__


def renew(module: nn.Module) -> None:
    """Set a module in eval mode to train mode and back; what is in it stays in its modes."""
    modes = [(m, m.training) for m in module.modules()]
    module.train(True)
    module.train(False)
    for m, training in modes:
        m.training = training
