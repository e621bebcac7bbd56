"""One folder per run: metrics line by line as they come, everything else whole or not at all."""

import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Self

from gnomon.lab.errors import BadFolder

METRICS = "metrics.jsonl"

Json = Mapping[str, object]


class Record:
    """A folder that belongs to one run. A stop at any moment loses at most the line in progress."""

    def __init__(self, folder: Path) -> None:
        """Take a folder for a new run; `BadFolder` if it holds one or cannot be written to."""
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / METRICS).touch(exist_ok=False)  # of two runs at once only one gets it
        except FileExistsError as error:
            reason = "holds a run already" if folder.is_dir() else "is not a folder"
            raise BadFolder(f"The folder '{folder}' {reason}. Choose another.") from error
        except OSError as error:
            raise BadFolder(f"The folder '{folder}' cannot be written to: {error}.") from error

    @classmethod
    def numbered(cls, parent: Path, name: str) -> Self:
        """Take the first of name, name-2, name-3, ... that no run holds yet."""
        number, folder = 1, parent / name
        while True:
            try:
                return cls(folder)
            except BadFolder:
                if not (folder / METRICS).exists():
                    raise
            number, folder = number + 1, parent / f"{name}-{number + 1}"

    def write(self, **values: object) -> None:
        """Append one line to the metrics; the system has it when this returns."""
        with (self.folder / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(_plain(values)) + "\n")

    def path(self, name: str) -> Path:
        """Return where a file of the run lies, for those who write it themselves."""
        return self.folder / name

    def text(self, name: str, content: str) -> None:
        """Write a file of the run through a draft and a rename."""
        draft = self.folder / f"{name}.tmp"  # the folder is this run's alone: the name is free
        draft.write_text(content, encoding="utf-8")
        os.replace(draft, self.folder / name)

    def json(self, name: str, content: Json) -> None:
        """Write a JSON file of the run through a draft and a rename."""
        self.text(name, json.dumps(_plain(content), indent=2) + "\n")


def metrics(folder: Path) -> Iterator[dict[str, object]]:
    """Read the metrics of a run back; a last line that a stop cut short is left out."""
    for line in (folder / METRICS).read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            yield json.loads(line)


def version(package: str) -> str:
    """Return the installed version of a package, or `unknown` where it is used from a folder."""
    try:
        return installed_version(package)
    except PackageNotFoundError:
        return "unknown"


def signature(**arguments: object) -> dict[str, object]:
    """Return what a reader needs to repeat the run: versions, commit, machine, arguments."""
    return {
        "gnomon": version("gnomon"),
        "git": commit(),
        "torch": version("torch"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        **arguments,
    }


def one_line(facts: Json) -> str:
    """Return a signature as `gnomon:0.1.0|data:digits|rule:r2r|...`, without what is unknown."""
    return "|".join(f"{name}:{value}" for name, value in facts.items() if value is not None)


def commit() -> str | None:
    """Return the commit that gnomon runs from, with `-dirty` if files differ; None outside git."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=7"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() or None


def _plain(value: object) -> object:
    """Make a value fit for strict JSON: nan and infinity become null, the unknown its text."""
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return value if isinstance(value, str | int | float | None) else str(value)
