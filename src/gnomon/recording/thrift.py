"""Little memory while a large model grows: what nobody needs goes back to the system at once.

Two things stay with a process though nobody needs them. The allocator keeps what is freed. And of
a tensor that is mapped from its file every page that was read counts as the process's own, until
the system is short of memory; those that nobody wrote on lie in the file, and are read again.
"""

from __future__ import annotations

import ctypes
import mmap
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from gnomon.recording.tape import owned_tensors

LARGE = 1 << 27  # bytes of a model; of a smaller one it costs more time than the memory is worth
_NOTABLE = 1 << 25  # bytes of a tensor; to trim takes some milliseconds

_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \d+ +(/.*)")  # of a file
_WRITTEN = re.compile(r"(?:Anonymous|Swap|SwapPss): +[1-9]")  # a page that is not the file's


class Thrift:
    """Gives memory back while one model grows. Does nothing for small ones, or without `/proc`."""

    def __init__(self, files: Sequence[tuple[int, int]] = (), *, large: bool = False) -> None:
        self._files, self._large = files, large

    @classmethod
    def of(cls, model: nn.Module) -> Thrift:
        """Find the files in which a model's tensors lie, if nobody wrote on them in memory."""
        tensors = [t for t in owned_tensors(model).values() if _lies_here(t)]
        if sum(t.numel() * t.element_size() for t in tensors) < LARGE:
            return cls()
        starts = [t.data_ptr() for t in tensors]
        files = [(a, b) for a, b in _unwritten_files() if any(a <= start < b for start in starts)]
        return cls(files, large=True)

    def drop(self, tensor: Tensor) -> None:
        """Let go of this tensor's pages. Its numbers stay what they are."""
        if not self._files or not _lies_here(tensor):
            return
        start = tensor.data_ptr()
        end = start + tensor.numel() * tensor.element_size()
        for first, last in self._files:
            if first <= start and end <= last:
                _forget(start - start % mmap.PAGESIZE, end + -end % mmap.PAGESIZE)

    def done_with(self, tensor: Tensor) -> None:
        """Let go of its pages, and if it is large of what was freed while it was worked on."""
        self.drop(tensor)
        if self._large and tensor.numel() * tensor.element_size() >= _NOTABLE:
            trim()

    def tidy(self) -> None:
        """Let go of all the files' pages, and of what was freed."""
        for first, last in self._files:
            _forget(first, last)
        if self._large:
            trim()


def trim() -> None:
    """Give back what was freed, where the allocator is glibc's."""
    with suppress(OSError, AttributeError, TypeError):
        _libc().malloc_trim(0)


def _lies_here(tensor: Tensor) -> bool:
    """Whether its numbers are at one place of this process's memory."""
    return tensor.device.type == "cpu" and tensor.layout == torch.strided


def _unwritten_files() -> Iterator[tuple[int, int]]:
    """Where files are mapped of which this process has changed no page, as addresses."""
    try:
        told = Path("/proc/self/smaps").read_text()
    except OSError:
        return
    found: tuple[int, int] | None = None
    for line in told.splitlines():
        if line[0].islower() or line[0].isdigit():  # one mapping starts; facts have capitals
            if found is not None:
                yield found
            mapping = _MAPPING.match(line)
            is_file = mapping is not None and Path(mapping[3]).is_file()  # not a device's memory
            found = (int(mapping[1], 16), int(mapping[2], 16)) if mapping and is_file else None
        elif _WRITTEN.match(line):
            found = None
    if found is not None:
        yield found


def _forget(start: int, end: int) -> None:
    """Take whole pages out of memory; the next who reads them gets them from the file."""
    with suppress(OSError, AttributeError, TypeError):
        _libc().madvise(start, end - start, mmap.MADV_DONTNEED)


@cache
def _libc() -> ctypes.CDLL:
    library = ctypes.CDLL(None)
    library.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return library
