"""Where a model's code regroups channels: there their number may be written down."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from gnomon.analysis.groups import Analysis
from gnomon.axes import Axis, leaves, resolve
from gnomon.ops.context import Op

Place = tuple[type, str, int]
Part = tuple[Place, tuple[int, int]]  # which dimension of that operation, and where in it
Alike = frozenset[Part]


def regrouping_places(
    analysis: Analysis,
) -> tuple[dict[Axis, set[Part]], dict[Axis, set[int]]]:
    """Per leaf, the views that regroup it with others: where its size may be written down.

    Also the modules in which they are, by identity.
    """
    found: dict[Axis, set[Part]] = defaultdict(set)
    modules: dict[Axis, set[int]] = defaultdict(set)
    for recording in analysis.recordings:
        for op, place in zip(recording.ops, places_of(recording.ops), strict=True):
            if op.name not in ("view", "_unsafe_view", "reshape"):
                continue
            sides = [analysis.context.axes(op.args[0]), analysis.context.made(op)[0]]
            before, after = ([resolve(a) for a in side if resolve(a).size > 1] for side in sides)
            if before == after:
                continue
            for number, axis in enumerate([*before, *after]):
                inner = leaves(axis)
                if len(inner) > 1:
                    for i, leaf in enumerate(inner):
                        found[leaf].add((place, (number, i)))
                        modules[leaf].add(id(op.path[-1]) if op.path else 0)
    return found, modules


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
