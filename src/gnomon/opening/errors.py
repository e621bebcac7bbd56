"""What goes wrong before a model is there, as types; all are `GrowthError`."""

from __future__ import annotations

from gnomon.errors import GrowthError


class CannotOpen(GrowthError):
    """There is no such model, or its library or code could not make it."""


class MissingLibrary(CannotOpen):
    """A library that the model comes from is not installed, or does not fit the others."""


class Offline(CannotOpen):
    """A name on a hub, which could not be reached and is not on this machine."""


class OutputExists(GrowthError):
    """Something already lies where the result is to go."""
