"""Keep: a growth changes neither rates nor moments."""

from __future__ import annotations

from dataclasses import dataclass

from gnomon.adjustments.base import Adjustment


@dataclass(frozen=True)
class Keep(Adjustment):
    """Change nothing: the default. New entries are only kept from being kicked, as always.

    Source: this library's promise that a growth neither freezes nor kicks; `docs/training.md`.
    """
