"""Where members stand in the tree: a lane each for as long as they live, children by their parent.

lane 0   ────────●──────●
lane 1   ●──┬────●──────●        one column per round, at the most M lanes
lane 2      └────●              a lane that has become free is given away again
"""

from __future__ import annotations

from collections.abc import Sequence

from gnomon.lab.search.news import Told


def lanes(history: Sequence[Told]) -> list[dict[int, int]]:
    """Per round, the lane of each member by its id."""
    count = max(len(told.rows) for told in history)
    found: list[dict[int, int]] = []
    known = dict[int, int]()  # of everyone that ever had one
    for told in history:
        now = {row.id: known[row.id] for row in told.rows if row.id in known}
        free = sorted(set(range(count)) - set(now.values()))
        for row in told.rows:
            if row.id not in now:
                beside = (count - 1) / 2 if row.parent is None else known[row.parent]
                lane = min(free, key=lambda n: (abs(n - beside), n))
                free.remove(lane)
                now[row.id] = known[row.id] = lane
        found.append(now)
    return found


def bands(
    history: Sequence[Told],
) -> tuple[list[dict[tuple[int, int], int]], list[tuple[int, int]]]:
    """The same for islands, one band of lanes below the other with a lane between.

    Returns per round the lane of each member by its key, and each island's first and last lane.
    """
    places: list[dict[tuple[int, int], int]] = [{} for _ in history]
    found: list[tuple[int, int]] = []
    for island in zip(*(told.islands for told in history), strict=True):
        first = found[-1][1] + 2 if found else 0
        lane = lanes(island)
        for place, told, own in zip(places, island, lane, strict=True):
            place |= {row.key: first + own[row.id] for row in told.rows}
        found.append((first, first + max(max(own.values()) for own in lane)))
    return places, found


def ancestry(history: Sequence[Told], member: tuple[int, int]) -> list[tuple[int, int]]:
    """Keys from a base to a member, across islands."""
    before = {row.key: row.before for told in history for row in told.rows}
    found = [member]
    while (earlier := before.get(found[0])) is not None:
        found.insert(0, earlier)
    return found
