"""Open models by name: of timm, torchvision, transformers, a factory, or a file of gnomon's."""

from gnomon.opening.errors import CannotOpen, MissingLibrary, Offline, OutputExists
from gnomon.opening.models import Opened, opened, traced
from gnomon.opening.source import FORMS, Source, source

__all__ = [
    "FORMS",
    "CannotOpen",
    "MissingLibrary",
    "Offline",
    "Opened",
    "OutputExists",
    "Source",
    "opened",
    "source",
    "traced",
]
