"""What a search is told of its members, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gnomon.evolution.errors import SearchError
from gnomon.evolution.population.member import Member


def table_of(members: Sequence[Member], correct: Mapping[int, Tensor]) -> Tensor:
    """(members, examples) on the CPU. Raises SearchError if answers are missing or differ."""
    wanted = [m.id for m in members]
    if sorted(correct) != sorted(wanted):
        raise SearchError(f"members {sorted(wanted)} were asked for, {sorted(correct)} are told")
    rows = [correct[number].detach().cpu() for number in wanted]
    shapes = {tuple(row.shape) for row in rows}
    if len(shapes) != 1 or len(rows[0].shape) != 1 or not len(rows[0]):
        raise SearchError(
            f"answers must be one number per validation example, of all members alike; their "
            f"shapes are {sorted(shapes)}"
        )
    table = torch.stack(rows)
    if not bool(((table >= 0) & (table <= 1)).all()):
        raise SearchError("how right an example is must be a number from 0 to 1")
    return table
