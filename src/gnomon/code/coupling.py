"""Groups that a model's code makes grow together, in proportion.

`C // heads`, one `head_dim` for queries, keys and values, `reshape(B, N, C)`: there a group cannot
grow alone. Groups that are named `along` each other keep the proportion of their widths.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

from gnomon.analysis.groups import Group
from gnomon.axes import resolve


def together(name: str, groups: Mapping[str, Group]) -> list[str]:
    """A group and all that grow along, those that grow along with these too, in order."""
    found, waiting = {name: None}, [name]
    while waiting:
        for other in groups[waiting.pop()].along:
            if other not in found and other in groups:
                found[other] = None
                waiting.append(other)
    return [g for g in groups if g in found]


def in_proportion(
    names: Sequence[str], groups: Mapping[str, Group], at_least: Fraction
) -> list[int]:
    """The least grown sizes of these leaves that keep their proportion and reach a factor."""
    sizes = [resolve(groups[name].leaf).size for name in names]
    common = math.gcd(*sizes)
    parts = math.ceil(at_least * common)
    return [size // common * parts for size in sizes]
