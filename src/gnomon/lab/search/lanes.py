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


def ancestry(history: Sequence[Told], member: int) -> list[int]:
    """Ids from the base to a member."""
    parents = {row.id: row.parent for told in history for row in told.rows}
    found = [member]
    while (parent := parents.get(found[0])) is not None:
        found.insert(0, parent)
    return found
