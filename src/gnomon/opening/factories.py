"""Models that a function of yours makes: `package.module:factory` or `FILE.py:factory`.

The factory returns a module, or a module and its example inputs.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from gnomon.opening.errors import CannotOpen
from gnomon.opening.source import Source
from gnomon.recording.hollow import built


def factory_model(source: Source, *, hollow: bool) -> tuple[nn.Module, object]:
    """The module and its example inputs, None if the factory gives none. Raises CannotOpen."""
    make = _function(source)
    given: list[object] = []

    def model() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(source.seed)
            made = make(**source.options)
        paired = isinstance(made, tuple) and len(made) == 2
        module, example = made if isinstance(made, tuple) and paired else (made, None)
        if not isinstance(module, nn.Module):
            raise CannotOpen(
                f"'{source}' makes a {type(made).__name__}: return a torch.nn.Module, or "
                f"(module, example_inputs)"
            )
        given[:] = [example]
        return module

    try:
        return built(model, hollow=hollow), given[0]
    except CannotOpen:
        raise
    except Exception as fault:
        raise CannotOpen(f"'{source}' failed ({type(fault).__name__}: {fault})") from fault


def _function(source: Source) -> Callable[..., object]:
    where, _, name = source.name.rpartition(":")
    try:
        module = _file(Path(where)) if where.endswith(".py") else importlib.import_module(where)
    except CannotOpen:
        raise
    except Exception as fault:  # whatever foreign code raises while it is imported
        raise CannotOpen(
            f"'{where}' cannot be imported ({type(fault).__name__}: {fault})"
        ) from fault
    found = getattr(module, name, None)
    if not callable(found):
        raise CannotOpen(f"'{where}' has no function '{name}'")
    make: Callable[..., object] = found
    return make


def _file(path: Path) -> object:
    """Import a file under its own name, with its folder on the path as a script has it."""
    if not path.is_file():
        raise CannotOpen(f"there is no file '{path}'")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module
