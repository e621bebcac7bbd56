"""Image data sets as arrays: decoded once, kept in a cache folder outside the repository."""

import hashlib
import importlib
import logging
import os
import re
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gnomon.lab.errors import LabError, MissingExtra

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger("gnomon")

FORMAT = 1  # part of every cache key: raise it when the arrays below change
IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels")


@dataclass(frozen=True)
class Arrays:
    """Images (N, channels, height, width) as uint8 and labels (N,) as int64, both splits."""

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]


class _Rows(Protocol):
    """What we use of a streamed split of the `datasets` library."""

    column_names: list[str] | None

    def __iter__(self) -> Iterator[dict[str, Any]]: ...

    def cast_column(self, column: str, feature: object) -> "_Rows": ...


def cached(source: str) -> Arrays:
    """Return the arrays of a folder of parquet files or of a hub name, decoding them only once.

    A folder is known by the path, size and time of its files, so changed data is decoded anew;
    a hub name is known by its name, so that a second start needs no network.
    """
    path = cache_folder() / f"{_slug(source)}-{_fingerprint(source)}.npz"
    arrays = _stored(path)
    if arrays is None:
        arrays = _decoded(source)
        _store(arrays, path)
    return arrays


def cache_folder() -> Path:
    """Where decoded data lies: `$XDG_CACHE_HOME/gnomon`, or `~/.cache/gnomon`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "gnomon"


def parquet_files(folder: Path) -> list[Path]:
    """Return the parquet files under a folder, sorted; `LabError` if there are none."""
    if not folder.is_dir():
        raise LabError(
            f"The data '{folder}' cannot be loaded: there is no such folder. "
            "Use digits, mnist, cifar10, or the path of a folder of parquet files."
        )
    files = sorted(folder.rglob("*.parquet"))
    if not files:
        raise LabError(
            f"The data '{folder}' cannot be loaded: the folder holds no parquet file. "
            "It needs train.parquet and test.parquet with an image and a label column."
        )
    return files


def _slug(source: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", Path(source).name).strip("-").lower() or "data"


def _fingerprint(source: str) -> str:
    lines = [f"format {FORMAT}", source]
    folder = Path(source)
    if folder.is_dir():
        lines[1] = str(folder.resolve())
        for file in parquet_files(folder):
            facts = file.stat()
            lines.append(f"{file.relative_to(folder)} {facts.st_size} {facts.st_mtime_ns}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _stored(path: Path) -> Arrays | None:
    """Read a cache file; None if there is none or if it is not whole (zip checks its sums)."""
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return Arrays(**{name: file[name] for name in Arrays.__dataclass_fields__})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        logger.warning("the cached data in %s is not whole (%s): decoding it again", path, error)
        return None


def _store(arrays: Arrays, path: Path) -> None:
    """Write beside the target, then rename: a stop in between leaves no half file behind."""
    draft: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
            draft = file.name
            np.savez(file, **asdict(arrays))
        os.replace(draft, path)
    except OSError as error:
        logger.warning("the decoded data cannot be kept in %s (%s)", path.parent, error)
    finally:
        if draft is not None:
            Path(draft).unlink(missing_ok=True)


def _decoded(source: str) -> Arrays:
    splits = _splits(source)
    missing = {"train", "test"} - set(splits)
    if missing:
        raise LabError(
            f"The data '{source}' cannot be used: it has no {' and no '.join(sorted(missing))} "
            f"split, only {', '.join(splits)}. Name the files train.parquet and test.parquet."
        )
    train = _split_arrays(source, "train", splits["train"])
    return Arrays(*train, *_split_arrays(source, "test", splits["test"]))


def _splits(source: str) -> Mapping[str, _Rows]:
    """Open the splits as streams: nothing is copied and nothing is decoded yet."""
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise MissingExtra(f"The data '{source}'", error.name) from None
    try:
        splits: Mapping[str, _Rows] = datasets.load_dataset(source, streaming=True)
    # Whatever the hub, the network or a foreign file makes `datasets` raise: it has no common base.
    except Exception as error:
        where = (
            "the folder cannot be read"
            if Path(source).is_dir()
            else "it comes from the Hugging Face hub, which cannot be reached (pass --data PATH, "
            "a folder with its parquet files)"
        )
        raise LabError(f"The data '{source}' cannot be loaded: {where}. {error}") from error
    return splits


def _split_arrays(
    source: str, split: str, rows: _Rows
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    image, label = _column(source, rows, IMAGE_COLUMNS), _column(source, rows, LABEL_COLUMNS)
    datasets = importlib.import_module("datasets")
    images: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    try:
        for row in rows.cast_column(image, datasets.Image()):
            images.append(_pixels(row[image], like=images[:1]))
            labels.append(int(row[label]))
        return np.stack(images), np.array(labels, dtype=np.int64)
    # A file cut short, a picture that is none, pictures of several sizes, no rows, labels of text.
    except Exception as error:
        raise LabError(
            f"The {split} split of '{source}' cannot be decoded after {len(labels)} images: {error}"
        ) from error


def _column(source: str, rows: _Rows, names: tuple[str, ...]) -> str:
    present = rows.column_names or list(next(iter(rows), {}))
    for name in names:
        if name in present:
            return name
    raise LabError(
        f"The data '{source}' cannot be used: it has no column {' or '.join(names)}, "
        f"only {', '.join(present)}."
    )


def _pixels(image: "Image", like: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return (channels, height, width); the first image decides between grey and colour."""
    grey = like[0].shape[0] == 1 if like else image.mode in ("1", "L")
    pixels = np.asarray(image.convert("L" if grey else "RGB"), dtype=np.uint8)
    return pixels[None] if grey else pixels.transpose(2, 0, 1)
