"""The state of several islands as that of one search: text and tensors, in one file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from gnomon.errors import BadCheckpoint

_FORMAT = "islands 1"


def joined(
    states: Sequence[Mapping[str, Any]], numbers: Mapping[str, int], moved: int
) -> dict[str, Any]:
    """One state of several; tensors are named `<island, from 1>|<name there>`.

    numbers: of the islands. moved: the round before which members moved last.
    """
    meta = {
        "format": _FORMAT,
        "numbers": dict(numbers),
        "moved": moved,
        "searches": [json.loads(state["meta"]) for state in states],
    }
    tensors = {
        f"{number}|{name}": tensor
        for number, state in enumerate(states, 1)
        for name, tensor in state["tensors"].items()
    }
    return {"meta": json.dumps(meta), "tensors": tensors}


def parts_of(
    state: Mapping[str, Any], numbers: Mapping[str, int]
) -> tuple[list[dict[str, Any]], int]:
    """The states that `joined` was given, and when members moved. Raises BadCheckpoint."""
    try:
        meta = json.loads(state["meta"])
        if meta["format"] != _FORMAT:
            raise BadCheckpoint(f"it has format {meta['format']!r}, not {_FORMAT!r} of islands")
        if meta["numbers"] != numbers:
            raise BadCheckpoint(
                f"the checkpoint is of another search: of {meta['numbers']}, not {dict(numbers)}"
            )
        parts: list[dict[str, Any]] = [
            {"meta": json.dumps(one), "tensors": {}} for one in meta["searches"]
        ]
        for name, tensor in state["tensors"].items():
            number, _, rest = name.partition("|")
            parts[int(number) - 1]["tensors"][rest] = tensor
        return parts, int(meta["moved"])
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as fault:
        raise BadCheckpoint(f"islands cannot be read from a checkpoint: {fault!r}") from None
