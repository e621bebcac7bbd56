"""Where a model's code regroups channels or cuts them: there their number may be written down."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from gnomon.analysis.groups import Analysis
from gnomon.axes import Axis, leaves, resolve
from gnomon.ops.context import Op

Place = tuple[type, str, int]
Part = tuple[Place, tuple[int, int]]  # which dimension of that operation, and where in it
Alike = frozenset[Part]

_CUT = "split_with_sizes"
REGROUPING = ("view", "_unsafe_view", "reshape", _CUT)


def regrouping_places(
    analysis: Analysis,
) -> tuple[dict[Axis, set[Part]], dict[Axis, set[int]]]:
    """Per leaf, where it is regrouped with others or cut off: there its size may be written down.

    Also the modules in which that is, by identity.
    """
    found: dict[Axis, set[Part]] = defaultdict(set)
    modules: dict[Axis, set[int]] = defaultdict(set)
    for recording in analysis.recordings:
        for op, place in zip(recording.ops, places_of(recording.ops), strict=True):
            if op.name not in REGROUPING:
                continue
            for number, axis in enumerate(_regrouped(analysis, op)):
                inner = leaves(axis)
                if len(inner) > 1:
                    for i, leaf in enumerate(inner):
                        found[leaf].add((place, (number, i)))
                        modules[leaf].add(id(op.path[-1]) if op.path else 0)
    return found, modules


def _regrouped(analysis: Analysis, op: Op) -> list[Axis]:
    """The axes before and after, if they are not the same but for those of one entry."""
    sides = [analysis.context.axes(op.args[0]), *analysis.context.made(op)[:1]]
    if op.name == _CUT:
        return list(sides[0])
    before, after = ([resolve(a) for a in side if resolve(a).size > 1] for side in sides)
    return [] if before == after else [axis for side in sides for axis in side]


def places_of(ops: Sequence[Op]) -> list[Place]:
    """Each operation by its module's class, its name, and its number in that call of the module."""
    counts: dict[tuple[int, ...], dict[str, int]] = defaultdict(lambda: defaultdict(int))
    found = []
    for op in ops:
        counted = counts[tuple(id(m) for m in op.path)]
        owner = type(op.path[-1]) if op.path else type(None)
        found.append((owner, op.name, counted[op.name]))
        counted[op.name] += 1
    return found
