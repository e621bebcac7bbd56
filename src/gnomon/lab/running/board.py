"""The measurements of a run as TensorBoard's event files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from gnomon.lab.errors import MissingExtra
from gnomon.lab.running.record import told

try:
    from torch.utils.tensorboard import SummaryWriter
except ImportError as error:
    raise MissingExtra("Writing for TensorBoard", error.name) from None

SHOWN = ("loss", "accuracy", "parameters", "flops")


class Board:
    """A folder of event files. What an interrupted run wrote from `first` on is purged.

    first: no measurement of an earlier step is still to come.
    """

    def __init__(self, folder: Path, first: int) -> None:
        self._folder, again = folder, folder.exists()
        with told(folder):
            self._writer = SummaryWriter(str(folder), purge_step=first if again else None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with told(self._folder):
            self._writer.close()

    def write(self, point: Mapping[str, float]) -> None:
        """Add one measurement at its step."""
        with told(self._folder):
            for name in SHOWN:
                if math.isfinite(point[name]):
                    self._writer.add_scalar(name, point[name], int(point["step"]))
            self._writer.flush()
