"""What changes: one class per morph."""

from gnomon.morphs.widen import Widen

__all__ = ["Widen"]
