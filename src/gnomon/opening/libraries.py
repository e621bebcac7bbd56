"""Import a library that models come from, or say which extra has it."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType

import torch
from torch import library as operators

from gnomon.opening.errors import MissingLibrary

EXTRA = {"timm": "vision", "torchvision": "vision", "transformers": "hf"}

# What torchvision registers fake kernels for when it is imported. Its classifiers use none of them.
_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "roi_align(Tensor input, Tensor rois, float spatial_scale, int pooled_height, "
    "int pooled_width, int sampling_ratio, bool aligned) -> Tensor",
)


def library(name: str) -> ModuleType:
    """The library of this name. Raises MissingLibrary if it is not installed or does not load."""
    try:
        _torchvision_loads()
        return importlib.import_module(name)
    except ImportError as fault:
        lacking = (fault.name or name).partition(".")[0]
        raise MissingLibrary(
            f"'{name}:' models need {lacking}, which is not installed: run pip install "
            f"'gnomon[{EXTRA[name]}]'"
        ) from None
    except RuntimeError as fault:
        raise MissingLibrary(
            f"{name} is installed but does not load ({fault}): install the versions of {name} and "
            f"torchvision that were built for torch {torch.__version__}"
        ) from fault


@functools.cache
def _torchvision_loads() -> operators.Library | None:
    """Let torchvision load where its compiled operators do not fit this torch.

    timm and transformers import it too. The declarations live as long as what is returned.
    """
    try:
        importlib.import_module("torchvision")
    except ImportError:
        return None
    except RuntimeError as fault:
        if "torchvision::" not in str(fault):
            raise
        declared = operators.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for operator in _OPERATORS:
            declared.define(operator)  # type: ignore[no-untyped-call]
        return declared
    return None
