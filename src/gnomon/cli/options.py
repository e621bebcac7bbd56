"""What the commands share: how words become values, and errors one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console
from rich.text import Text

from gnomon.errors import GrowthError
from gnomon.lab.errors import BadFolder, LabError

INTERRUPTED = 130  # as a shell has it
DEVICES = ("auto", "cpu", "cuda")
RULE = (
    "How weights are filled: r2r, net2net, netmorph, hybrid, isometry, randpad, netmorph-writers."
)


@contextmanager
def told(stopped: str = "Stopped.") -> Iterator[None]:
    """Turn what goes wrong into one message and an exit code: 2 for a bad --out, else 1.

    stopped: what to say after Ctrl-C.
    """
    try:
        yield
    except BadFolder as error:
        raise typer.BadParameter(str(error), param_hint="--out") from None
    except (GrowthError, LabError) as error:
        complain(str(error))
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        complain(stopped)
        raise typer.Exit(INTERRUPTED) from None


def complain(message: str) -> None:
    """Write an error, in red on a terminal."""
    Console(stderr=True).print(Text(message, style="red"), soft_wrap=True)


def one_of(option: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse what is not among the choices."""
    if value not in choices:
        raise typer.BadParameter(
            f"'{value}' is not one of {', '.join(choices)}.", param_hint=option
        )


def seeds_of(text: str) -> tuple[int, ...]:
    """Read `0-4` or `0,2,5`: seeds in ascending order."""
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        try:
            low, high = int(first), int(last) if dash else int(first)
        except ValueError:
            low, high = 1, 0
        if not 0 <= low <= high:
            raise typer.BadParameter(
                f"'{text}' names no seeds. Write them as 0-4 or 0,2,5.", param_hint="--seeds"
            )
        found.update(range(low, high + 1))
    return tuple(sorted(found))


def words(text: str | None) -> tuple[str, ...]:
    """Split `a,b` into its words."""
    return tuple(word.strip() for word in (text or "").split(",") if word.strip())


def runs_folder(out: Path | None, slug: str, preset: str) -> Path:
    """Where the runs of an experiment lie."""
    return out if out is not None else Path("runs") / f"{slug}-{preset}"
