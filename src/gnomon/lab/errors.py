"""What goes wrong around an experiment, as types: data, folders and missing extras."""


class LabError(Exception):
    """An experiment cannot go on; the message says what was asked, why not, and what to do."""


class MissingExtra(LabError):
    """A library of the `lab` extra is not installed."""

    def __init__(self, what: str, library: str | None) -> None:
        super().__init__(f"{what} needs {library}: run pip install 'gnomon[lab]'.")


class BadFolder(LabError):
    """A folder that a run cannot be written to."""
