"""One process per folder: a lock that the system takes back when its holder dies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from gnomon.lab.errors import BadFolder


@contextmanager
def alone(folder: Path, what: str) -> Iterator[None]:
    """Keep others out of a folder, which is made if need be. what: they are, "run" or "search".

    Raises BadFolder if it is in use or cannot be written to.
    """
    lock = FileLock(folder / "lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise BadFolder(
            f"The folder '{folder}' is in use by another {what}. Wait for it, or choose another."
        ) from None
    except OSError as error:
        raise BadFolder(f"The folder '{folder}' cannot be written to: {error}.") from None
    try:
        yield
    finally:
        lock.release()
