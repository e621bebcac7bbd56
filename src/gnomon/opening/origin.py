"""Where a grown model came from, as text in its file: enough to build the small one again."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gnomon.errors import BadCheckpoint
from gnomon.opening.errors import CannotOpen
from gnomon.opening.inputs import Input, read_input
from gnomon.opening.kinds import architecture
from gnomon.opening.source import LIBRARIES, Source
from gnomon.recording.tape import owned_tensors

KEY = "gnomon.origin"  # in the metadata of a safetensors file


@dataclass(frozen=True)
class Origin:
    """A small model before all growth.

    source: its name and options; of transformers with its whole configuration.
    inputs: what its example inputs are drawn as; none if its factory gives them.
    dtypes: of its floats, by name, where they are not float32.
    """

    source: Source
    inputs: tuple[Input, ...]
    dtypes: dict[str, str]

    @property
    def text(self) -> str:
        """As JSON."""
        data = {
            "kind": self.source.kind,
            "name": self.source.name,
            "options": dict(self.source.options),
            "inputs": [str(one) for one in self.inputs],
            "dtypes": self.dtypes,
        }
        return json.dumps(data, default=str)


def origin_of(source: Source, model: nn.Module, inputs: tuple[Input, ...]) -> Origin:
    """What is to be remembered of a model that did not grow yet."""
    if source.kind == "hf":
        config: Any = model.config
        source = replace(source, options={"config": config.to_dict()})
    floats = {n: t.dtype for n, t in owned_tensors(model).items() if t.is_floating_point()}
    dtypes = {n: str(d).partition(".")[2] for n, d in floats.items() if d != torch.float32}
    return Origin(source, inputs, dtypes)


def read_origin(text: str, path: Path) -> Origin:
    """What a file says of its origin. Raises BadCheckpoint."""
    try:
        data = json.loads(text)
        base = Source(str(data["kind"]), str(data["name"]), dict(data["options"]))
        inputs = tuple(read_input(str(one)) for one in data["inputs"])
        dtypes = {str(name): str(dtype) for name, dtype in dict(data["dtypes"]).items()}
        good = all(isinstance(getattr(torch, d, None), torch.dtype) for d in dtypes.values())
    except (ValueError, KeyError, TypeError, CannotOpen):
        good = False
    if not good:
        raise BadCheckpoint(f"'{path}' says of its origin what cannot be read")
    return Origin(base, inputs, dtypes)


def small_model(origin: Origin, path: Path) -> nn.Module:
    """The model before its growth, without weights.

    Raises CannotOpen for one that a factory made: a file must not say which code is run.
    """
    base = origin.source
    if base.kind not in LIBRARIES:
        raise CannotOpen(
            f"'{path}' is of a model that '{base.name}' makes: give that factory as the model, if "
            f"you trust it, and this file with --weights"
        )
    return in_dtypes(architecture(base, hollow=True)[0], origin)


def in_dtypes(model: nn.Module, origin: Origin) -> nn.Module:
    """Bring the floats of a model into the dtypes that they had."""
    for name, tensor in owned_tensors(model).items():
        wanted = getattr(torch, origin.dtypes.get(name, "float32"))
        if tensor.is_floating_point() and tensor.dtype != wanted:
            tensor.data = tensor.data.to(wanted)
    return model
