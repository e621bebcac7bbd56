"""Where experiments lie and how they are read: `experiments/<folder>/<name>.py`, one in each file.

A file says `EXPERIMENT = Experiment(...)`, `Contest(...)` or `Computed(...)`. Its name is its path
without the suffix, "r2r/widen". Files that set no EXPERIMENT are programs or helpers: not listed,
never run. A file may import its neighbours, as if it were run as a program.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import gnomon
from gnomon.lab.contest import contest
from gnomon.lab.contest.contest import Contest, Entry
from gnomon.lab.errors import LabError
from gnomon.lab.experiment import Arm, Begun, Computed, Experiment, Size, checked

DEFINES = "EXPERIMENT"
A = TypeVar("A", bound=Begun)
SOURCES = Path(gnomon.__file__).resolve().parents[2]  # the repository, if installed from one


@dataclass(frozen=True)
class Found:
    """An experiment, what it is called on the command line, and the file it was read from."""

    name: str
    path: Path
    experiment: Experiment | Contest | Computed

    @property
    def slug(self) -> str:
        """The name as part of a file's name."""
        return self.name.replace("/", "-")

    def declared(self) -> Experiment | Contest:
        """The experiment or contest, if it has arms to run."""
        if isinstance(self.experiment, Computed):
            raise LabError(
                f"'{self.name}' is computed, not trained: it has no arms. "
                f"`gnomon run {self.name}` writes its page and its pictures."
            )
        return self.experiment

    def trained(self) -> Experiment:
        """The experiment, if it is one with arms to train."""
        found = self.declared()
        if isinstance(found, Contest):
            raise LabError(
                f"'{self.name}' is a contest of searches: none of its arms is a training whose "
                f"settings could be chosen. `gnomon run {self.name}` runs it as it is."
            )
        return found


def shelf(given: Path | None = None) -> Path:
    """The folder of the experiments: as given, else ./experiments, else the repository's."""
    if given is not None:
        if not given.is_dir():
            raise LabError(f"The experiments '{given}' cannot be listed: there is no such folder.")
        return given
    for folder in (Path("experiments"), SOURCES / "experiments"):
        if folder.is_dir():
            return folder
    raise LabError(
        "There is no folder 'experiments' here. Say where it is with --experiments PATH, or give "
        "the path of a .py file."
    )


def find(name: str, given: Path | None = None) -> Found:
    """Read an experiment by its name, or from the path of a file of one's own.

    Raises LabError for an unknown name, with the nearest known one, and for a broken file.
    """
    if name.endswith(".py"):
        path = Path(name)
        if not path.is_file():
            raise LabError(f"The experiment '{name}' cannot be read: there is no such file.")
        return Found(path.stem, path.resolve(), read(path))
    folder = shelf(given)
    path = folder / f"{name}.py"
    if not path.is_file() or not _defines(path):
        known = names(folder)
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        raise LabError(
            f"There is no experiment '{name}' in '{folder}'. "
            + (f"Did you mean '{near[0]}'? " if near else "")
            + "`gnomon run --list` shows them all."
        )
    return Found(name, path.resolve(), read(path))


def names(folder: Path) -> list[str]:
    """The experiments of a folder, sorted; a file that cannot be parsed counts as one."""
    files = sorted(path for path in folder.rglob("*.py") if _defines(path))
    return [path.relative_to(folder).with_suffix("").as_posix() for path in files]


def listed(folder: Path) -> Iterator[tuple[str, Found | LabError]]:
    """Every experiment of a folder, or what is wrong with its file."""
    for name in names(folder):
        try:
            yield name, find(name, folder)
        except LabError as error:
            yield name, error


def _defines(path: Path) -> bool:
    """Whether a file sets EXPERIMENT; found out without running it."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError):
        return True  # it is named with its error where it is read
    targets = [t for node in tree.body if isinstance(node, ast.Assign) for t in node.targets]
    targets += [node.target for node in tree.body if isinstance(node, ast.AnnAssign)]
    return any(isinstance(target, ast.Name) and target.id == DEFINES for target in targets)


def read(path: Path) -> Experiment | Contest | Computed:
    """Run an experiment's file and return what it declares. Raises LabError."""
    path = path.resolve()
    name = f"gnomon_experiment_{path.parent.name}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # it ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their own module up
    try:
        with _neighbours(path.parent):
            spec.loader.exec_module(module)
    except LabError:
        raise
    except Exception as error:  # whatever a user's file raises when it is run
        where = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise LabError(
            f"The experiment '{path}' cannot be read{where}: {type(error).__name__}: {error}."
        ) from error
    found = getattr(module, DEFINES, None)
    if not isinstance(found, Experiment | Contest | Computed):
        raise LabError(
            f"The experiment '{path}' cannot be read: {DEFINES} must be an Experiment, a Contest "
            f"or a Computed, not {type(found).__name__}."
        )
    return found


@contextmanager
def _neighbours(folder: Path) -> Iterator[None]:
    """Let a file import the files beside it; two folders may use one name for theirs."""
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None)
            if file and Path(file).parent == folder and not name.startswith("gnomon_experiment_"):
                del sys.modules[name]


def size_of(found: Found, preset: str) -> Size:
    """A preset of an experiment. Raises LabError if it has none of that name."""
    presets = found.declared().presets
    if preset not in presets:
        raise LabError(
            f"'{found.name}' has no preset '{preset}': it has {', '.join(presets) or 'none'}."
        )
    return presets[preset]


def arms_of(found: Found, size: Size) -> Mapping[str, Arm]:
    """The arms of an experiment in a size, each one after the one it starts from."""
    with _making(found):
        return checked(found.trained().arms(size))


def entries_of(found: Found, size: Size) -> Mapping[str, Entry]:
    """The arms of a contest in a size, each one after the search it answers to."""
    with _making(found):
        declared = found.declared()
        assert isinstance(declared, Contest)  # the caller knows
        return contest.checked(declared.arms(size))


def begun_of(found: Found, size: Size) -> Mapping[str, Begun]:
    """The arms of an experiment or of a contest in a size."""
    if isinstance(found.declared(), Contest):
        return entries_of(found, size)
    return arms_of(found, size)


@contextmanager
def _making(found: Found) -> Iterator[None]:
    try:
        yield
    except LabError:
        raise
    except Exception as error:  # the experiment's own code: a Recipe of 0 epochs, a name misspelt
        raise LabError(
            f"The arms of '{found.name}' cannot be made: {type(error).__name__}: {error}."
        ) from error


def chosen(arms: Mapping[str, A], wanted: tuple[str, ...]) -> dict[str, A]:
    """The arms of these names and those that they start from, in the experiment's order."""
    unknown = [name for name in wanted if name not in arms]
    if unknown:
        raise LabError(f"There is no arm '{unknown[0]}': there are {', '.join(arms)}.")
    needed = set(wanted)
    for name in reversed([*arms]):
        start = arms[name].start
        if name in needed and start is not None:
            needed.add(start.arm)
    return {name: arm for name, arm in arms.items() if name in needed}
