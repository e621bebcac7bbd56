"""How a network starts: from a seed, and afresh in the shapes of another one."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from gnomon.lab.errors import LabError


def fresh(model: nn.Module, seed: int) -> nn.Module:
    """Return a copy of the same shapes with all parameters and statistics drawn anew.

    Modules draw for themselves with `reset_parameters`, as their constructors do; a module that
    holds parameters or buffers and cannot is a `LabError`.
    """
    twin = copy.deepcopy(model).cpu()
    with seeded(seed):
        for name, module in twin.named_modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
            elif [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
                raise LabError(
                    f"The network cannot start afresh: {type(module).__name__} '{name}' holds "
                    "tensors but has no reset_parameters()."
                )
    return twin


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from a seed inside the block and leave the global generator as it was."""
    with torch.random.fork_rng(devices=gpus()):
        torch.manual_seed(seed)
        yield


def gpus() -> list[int]:
    """The GPUs whose generators can have been used: none before CUDA is, and it is not begun."""
    begun = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return [*range(torch.cuda.device_count())] if begun else []
