"""What gnomon refuses, as types: every message says what was asked, where, why not, what to do.

    GrowthError
    ├── NoSuchGroup      a name that matches nothing; the message lists what does exist
    ├── Unsupported      the model or the optimizer holds something no rule here covers
    ├── CannotPreserve   the rule would change the function on this axis
    ├── NotProved        the grown model computed something else; everything was undone
    ├── InUse            a live graph, DDP or a compiled wrapper still holds the parameters
    ├── Stale            the model is not the one the plan was made for
    └── BadCheckpoint    a file that is truncated, foreign, tampered with, or for another model

A morph that is constructed wrongly is a plain `ValueError`: it does not depend on any model.
"""


class GrowthError(Exception):
    """A growth was refused or undone; the model and the optimizer are what they were."""


class NoSuchGroup(GrowthError):
    """A name, path or glob matches no group of this model."""


class Unsupported(GrowthError):
    """The model, its inputs or its optimizer holds something that cannot be grown."""


class CannotPreserve(GrowthError):
    """The rule cannot keep the function on this axis."""


class NotProved(GrowthError):
    """The grown model did not compute what the old one did; everything was undone."""


class InUse(GrowthError):
    """A live graph, a DDP wrapper or compiled code still holds the parameters."""


class Stale(GrowthError):
    """The model changed since the plan was made."""


class BadCheckpoint(GrowthError):
    """A file that is truncated, foreign, tampered with, or made from another model."""
