"""Where a model comes from, as one line of text and a few options.

timm:resnet50    torchvision:vgg16    hf:gpt2    hf:FOLDER    package.module:factory
FILE.py:factory  FILE.safetensors (written by gnomon)
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gnomon.opening.errors import CannotOpen

LIBRARIES = ("timm", "torchvision", "hf")
FORMS = (
    "timm:NAME, torchvision:NAME, hf:NAME_OR_FOLDER, package.module:factory, FILE.py:factory, or "
    "what gnomon wrote: a folder or FILE.safetensors"
)


@dataclass(frozen=True)
class Source:
    """A model by name.

    kind:       "timm", "torchvision", "hf", "factory" or "file".
    name:       what the kind knows it by; of a factory `where:function`.
    options:    keyword arguments of its constructor.
    weights:    a safetensors file, or None.
    pretrained: weights of the library's own hub, where it has them.
    seed:       of the numbers that a constructor draws.
    """

    kind: str
    name: str
    options: Mapping[str, object] = field(default_factory=dict)
    weights: Path | None = None
    pretrained: bool = False
    seed: int = 0

    def __str__(self) -> str:
        return self.name if self.kind in ("factory", "file") else f"{self.kind}:{self.name}"


def source(
    text: str,
    options: Sequence[str] = (),
    *,
    weights: Path | None = None,
    pretrained: bool = False,
    seed: int = 0,
) -> Source:
    """Read the words of a command. Raises CannotOpen for what names no model."""
    kind, colon, name = text.partition(":")
    given = dict(map(option, options))
    if kind in LIBRARIES and name:
        return Source(kind, name, given, weights, pretrained, seed)
    if Path(text).suffix == ".safetensors" or Path(text).is_dir():
        return Source("file", text, given, weights, pretrained, seed)
    if colon and text.rpartition(":")[2].isidentifier():
        return Source("factory", text, given, weights, pretrained, seed)
    raise CannotOpen(f"'{text}' names no model. Write {FORMS}")


def option(text: str) -> tuple[str, object]:
    """`NAME=VALUE`, where the value is a Python literal or else a word."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise CannotOpen(f"the option '{text}' is not NAME=VALUE")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value
