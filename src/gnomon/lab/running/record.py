"""One folder per run: metrics line by line as they come, everything else whole or not at all."""

import json
import math
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any, Self

import torch

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

    @classmethod
    def opened(cls, folder: Path) -> Self:
        """Take a folder whether or not it holds a run; the caller sees to it that it is alone."""
        record = cls.__new__(cls)
        record.folder = folder
        with told(folder):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / METRICS).touch()
            for draft in (*folder.glob("*.tmp"), *folder.glob("*.part")):
                draft.unlink()  # of a run that was killed while it wrote
        return record

    def write(self, **values: object) -> None:
        """Append one line to the metrics; the system has it when this returns."""
        with told(self.folder), (self.folder / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(plain(values)) + "\n")

    def length(self) -> int:
        """How many bytes of metrics there are; they are on the disk when this returns."""
        with told(self.folder), (self.folder / METRICS).open("rb") as file:
            os.fsync(file.fileno())
            return file.seek(0, os.SEEK_END)

    def cut(self, length: int) -> None:
        """Drop the metrics behind so many bytes. Raises BadFolder if there are fewer."""
        if self.length() < length:
            raise BadFolder(
                f"The metrics '{self.folder / METRICS}' are shorter than at the checkpoint beside "
                f"them: lines are missing. Remove the folder, and the run begins anew."
            )
        with told(self.folder):
            os.truncate(self.folder / METRICS, length)

    def lines(self) -> list[dict[str, object]]:
        """The metrics so far."""
        return list(metrics(self.folder))

    def path(self, name: str) -> Path:
        """Return where a file of the run lies, for those who write it themselves."""
        return self.folder / name

    def text(self, name: str, content: str) -> None:
        """Write a file of the run through a draft and a rename."""
        with self._draft(name) as draft:
            draft.write_text(content, encoding="utf-8")

    def torch(self, name: str, content: object) -> None:
        """Write a checkpoint of the run through a draft and a rename."""
        with self._draft(name) as draft:
            torch.save(content, draft)

    @contextmanager
    def _draft(self, name: str) -> Iterator[Path]:
        """A file to write to; it gets its name once it is whole and on the disk."""
        draft = self.folder / f"{name}.tmp"  # the folder is this run's alone: the name is free
        with told(self.folder):
            try:
                yield draft
                with draft.open("rb") as file:
                    os.fsync(file.fileno())
                os.replace(draft, self.folder / name)
            except BaseException:
                draft.unlink(missing_ok=True)
                raise

    def json(self, name: str, content: Json) -> None:
        """Write a JSON file of the run through a draft and a rename."""
        self.text(name, json.dumps(plain(content), indent=2) + "\n")


@contextmanager
def told(folder: Path) -> Iterator[None]:
    """Say what a disk that is full, or a folder that is gone, means for a run."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch.save raises RuntimeError on a full disk
        raise BadFolder(
            f"The folder '{folder}' cannot be written to ({error}). What was saved before is "
            f"whole: see to the disk, then go on with --resume."
        ) from error


def metrics(folder: Path) -> Iterator[dict[str, object]]:
    """Read the metrics of a run back; a last line that a stop cut short is left out."""
    for line in (folder / METRICS).read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            yield json.loads(line)


def read_json(path: Path) -> dict[str, object] | None:
    """Read what a run has written about itself; None if it has not. Raises BadFolder."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise BadFolder(f"'{path}' cannot be read: {error}.") from None
    if not isinstance(content, dict):
        raise BadFolder(f"'{path}' cannot be read: it holds no names and values.")
    return content


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
    root = Path(__file__).resolve().parents[4]
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


def numbers(line: Mapping[str, Any]) -> dict[str, Any]:
    """Return the counts and measurements of a line or a result; what `plain` did is undone."""
    return {name: math.nan if v is None else v for name, v in line.items() if name != "event"}


def plain(value: object) -> object:
    """Return a value fit for strict JSON: nan and infinity become null, the unknown its text."""
    if isinstance(value, Mapping):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return value if isinstance(value, str | int | float | None) else str(value)
