"""The kinds of models by name: how each is built without a file of ours, and its usual inputs."""

from __future__ import annotations

from torch import nn

from gnomon.opening import factories, hugging_face, images
from gnomon.opening.errors import CannotOpen
from gnomon.opening.inputs import Input
from gnomon.opening.source import Source


def architecture(source: Source, *, hollow: bool) -> tuple[nn.Module, object]:
    """The model as its kind makes it, and example inputs if that gives some.

    hollow: without weights, where its constructor does without.
    Raises MissingLibrary, CannotOpen, Offline.
    """
    if source.kind == "timm":
        return images.timm_model(source, hollow=hollow), None
    if source.kind == "torchvision":
        return images.torchvision_model(source, hollow=hollow), None
    if source.kind == "hf":
        config = hugging_face.configuration(source)
        return hugging_face.architecture(config, hollow=hollow), None
    return factories.factory_model(source, hollow=hollow)


def usual_inputs(model: nn.Module, source: Source) -> tuple[Input, ...]:
    """The inputs that a model of this kind takes. Raises CannotOpen."""
    if source.kind == "timm":
        return images.timm_inputs(model)
    if source.kind == "torchvision":
        return images.torchvision_inputs(source)
    if source.kind == "hf":
        return hugging_face.default_inputs(model)
    raise CannotOpen(
        f"'{source}' gives no example inputs: let it return (model, example_inputs), or give "
        f"--input 1x3x224x224"
    )
