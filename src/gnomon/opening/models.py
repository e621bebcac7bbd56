"""Open a model: build it, put its weights in, find inputs that it runs on, and its history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from gnomon.checkpoint import growths, load, metadata
from gnomon.grower import Grower
from gnomon.opening import hugging_face
from gnomon.opening.errors import CannotOpen
from gnomon.opening.inputs import Input, drawn, read_input
from gnomon.opening.kinds import architecture, usual_inputs
from gnomon.opening.origin import KEY, Origin, in_dtypes, origin_of, read_origin, small_model
from gnomon.opening.source import Source
from gnomon.opening.weights import mapped, put, refuse_pickle
from gnomon.planning.plan import Plan

WEIGHTS = "model.safetensors"  # in a folder that holds a model, as transformers has it

# Up to so many parameters a model is built for a trace as it is built to be grown.
SMALL = 100_000_000


@dataclass(frozen=True)
class Opened:
    """A model that can be grown.

    origin:  where the small model came from, before all growth.
    weights: where its numbers come from, in words.
    history: the growths that it went through already.
    """

    model: nn.Module
    example_inputs: object
    origin: Origin
    weights: str
    history: tuple[Plan, ...] = ()

    def grower(self) -> Grower:
        """A grower that goes on where the history ends. Raises as `Grower` does."""
        grower = Grower(self.model, self.example_inputs)
        grower.history = self.history
        return grower

    @property
    def about(self) -> dict[str, str]:
        """What a file keeps so that the model can be opened from it alone."""
        return {KEY: self.origin.text}


def opened(source: Source, inputs: Sequence[str] = ()) -> Opened:
    """The model with its weights, in their dtype.

    inputs: as for `read_input`; by default what the model's kind says.
    Raises MissingLibrary, CannotOpen, Offline, BadCheckpoint.
    """
    asked = tuple(map(read_input, inputs))
    if source.kind == "file":
        return _grown(Path(source.name), asked)
    if source.weights is not None:
        return _with_weights(source, source.weights, asked)
    if source.kind == "hf":
        return _ready(hugging_face.pretrained_model(source), None, source, asked, f"'{source}'")
    model, example = architecture(source, hollow=False)
    said = "pretrained" if source.pretrained else f"drawn by its constructor, seed {source.seed}"
    return _ready(model, example, source, asked, said)


def traced(source: Source, inputs: Sequence[str] = ()) -> Opened:
    """The model for analysis alone: small ones with any weights, large ones on `meta`.

    Raises MissingLibrary, CannotOpen, Offline, BadCheckpoint.
    """
    if source.kind == "file" or source.weights is not None:
        found = opened(source, inputs)
        return replace(found, model=_on_meta_if_large(found.model))
    source = replace(source, pretrained=False)
    model, example = architecture(source, hollow=True)
    if any(p.is_meta for p in model.parameters()) and _size(model) <= SMALL:
        model, example = architecture(source, hollow=False)
    asked = tuple(map(read_input, inputs))
    return _ready(_on_meta_if_large(model), example, source, asked, "none are needed")


def _size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _on_meta_if_large(model: nn.Module) -> nn.Module:
    return model.to("meta") if _size(model) > SMALL else model


def _with_weights(source: Source, path: Path, asked: tuple[Input, ...]) -> Opened:
    refuse_pickle(path)
    tensors = mapped(path)
    model, example = architecture(replace(source, pretrained=False), hollow=True)
    texts = metadata(path)
    if "gnomon" not in texts:
        put(tensors, model, path)
        return _ready(model, example, source, asked, f"'{path}'")
    if KEY in texts:
        model = in_dtypes(model, read_origin(texts[KEY], path))
    return _grown_again(model, path, example, source, asked)


def _grown(path: Path, asked: tuple[Input, ...]) -> Opened:
    """What gnomon wrote, from what the file says about its origin."""
    path = path / WEIGHTS if path.is_dir() else path
    refuse_pickle(path)
    text = metadata(path).get(KEY)
    if text is None:
        raise CannotOpen(
            f"'{path}' does not say which model it is of: name the model, and give this file with "
            f"--weights (a folder of transformers is hf:FOLDER)"
        )
    origin = read_origin(text, path)
    model = small_model(origin, path)
    return _grown_again(model, path, None, origin.source, asked or origin.inputs)


def _grown_again(
    small: nn.Module, path: Path, example: object, source: Source, asked: tuple[Input, ...]
) -> Opened:
    """Through the history of the file, to the model that was saved."""
    before = _ready(small, example, source, asked, f"'{path}', grown before")
    return replace(before, model=load(path, lambda: small), history=growths(path))


def _ready(
    model: nn.Module, example: object, source: Source, asked: tuple[Input, ...], weights: str
) -> Opened:
    """With example inputs: those asked for, those of the factory, or those of its kind."""
    if example is not None and not asked:
        return Opened(model, example, origin_of(source, model, ()), weights)
    inputs, constant = asked or usual_inputs(model, source), dict[str, object]()
    if source.kind == "hf":
        constant = hugging_face.constants(model)
        inputs = hugging_face.named(model, inputs)
    with torch.device("cpu"):
        example = drawn(inputs, model, **constant)
    return Opened(model, example, origin_of(source, model, inputs), weights)
