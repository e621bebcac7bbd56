"""Models of timm and torchvision: by name, on images of the size that they were made for."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from gnomon.opening.errors import CannotOpen, Offline
from gnomon.opening.inputs import BATCH, Input
from gnomon.opening.libraries import library
from gnomon.opening.source import Source
from gnomon.recording.hollow import built

_SIDE = 224  # where nothing says otherwise


def timm_model(source: Source, *, hollow: bool) -> nn.Module:
    """A model of timm. Raises MissingLibrary, CannotOpen, Offline."""
    timm = library("timm")
    if not timm.is_model(source.name.partition(".")[0]):
        raise CannotOpen(f"timm has no model '{source.name}': timm.list_models() lists them")
    return _made(source, timm.create_model, hollow=hollow, pretrained=source.pretrained)


def timm_inputs(model: nn.Module) -> tuple[Input, ...]:
    """A batch of images."""
    known: Any = getattr(model, "pretrained_cfg", None) or {}
    return (Input((BATCH, *known.get("input_size", (3, _SIDE, _SIDE)))),)


def torchvision_model(source: Source, *, hollow: bool) -> nn.Module:
    """A model of torchvision. Raises MissingLibrary, CannotOpen, Offline."""
    models = library("torchvision").models
    if source.name not in models.list_models():
        raise CannotOpen(
            f"torchvision has no model '{source.name}': torchvision.models.list_models() lists them"
        )
    named = {"weights": "DEFAULT"} if source.pretrained else {}
    return _made(source, models.get_model, hollow=hollow, **named)


def torchvision_inputs(source: Source) -> tuple[Input, ...]:
    """A batch of images of the size that its published weights are given."""
    models = library("torchvision").models
    try:
        side = models.get_model_weights(source.name).DEFAULT.transforms().crop_size[0]
    except (AttributeError, IndexError, TypeError, ValueError):
        side = _SIDE
    return (Input((BATCH, 3, side, side)),)


def _made(source: Source, make: Any, *, hollow: bool, **more: Any) -> nn.Module:
    def model() -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(source.seed)
            return make(source.name, **more, **source.options)

    try:
        return built(model, hollow=hollow and not source.pretrained)
    except OSError as fault:
        if not source.pretrained:
            raise CannotOpen(f"'{source}' cannot be built: {fault}") from fault
        raise Offline(
            f"the weights of '{source}' cannot be downloaded ({str(fault).splitlines()[0]}): "
            f"download them elsewhere as safetensors and give --weights FILE.safetensors"
        ) from fault
    except Exception as fault:
        said = f"{type(fault).__name__}: {fault}"
        raise CannotOpen(f"'{source}' cannot be built ({said}): look at its options") from fault
