"""With which others groups can grow that the code does not let grow alone, in proportion.

`C // heads`, one `head_dim` for queries and values, parts of one `split` that share a number: what
others there are is looked for in the modules that regroup a group, and tried on grown shapes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from gnomon.analysis.groups import Group
from gnomon.axes import resolve
from gnomon.code.regrouping import Alike
from gnomon.code.trials import STREAMS, Trials, dims_of

_PARTNERS = 6  # that are tried for one group


def partners(
    trials: Trials,
    refused: Mapping[str, str],
    roles: Mapping[str, object],
    free: set[str],
    known: Mapping[str, tuple[str, ...]],
) -> dict[str, tuple[str, ...]]:
    """Per group, which others grow along: of those that were refused, and of these others.

    roles: what those have in common that were refused together. free: what grows alone.
    known: what is said of some already, and stays as it is.
    """
    search = _Partners(trials, refused, roles, free, known)
    search.all_of(refused)
    return search.along


class _Partners:
    def __init__(
        self, trials: Trials, refused: Mapping[str, str], roles: Mapping[str, object],
        free: set[str], known: Mapping[str, tuple[str, ...]],
    ) -> None:  # fmt: skip
        self.trials, self.free = trials, free
        self.along = dict(known)
        self.able = trials.able
        self.roles: dict[object, list[Group]] = defaultdict(list)
        for g in trials.analysis.groups:
            if g.name in refused:
                self.roles[roles[g.name]].append(g)

    def all_of(self, refused: Mapping[str, str]) -> None:
        """Look for others that each role that was refused can grow along with."""
        for alike in list(self.roles.values()):
            if alike[0].name in self.along:
                continue
            for others in self._choices(alike):
                found = self._tried(alike, others)
                if self.trials.over:
                    return
                if found:
                    self._join(*found)
                    break

    def _tried(
        self, alike: list[Group], others: list[Group]
    ) -> tuple[list[list[Group]], list[Group]] | None:
        """The roles that grow together with others, and which of the others they need."""
        common = [h for h in others if self._is_common(h, alike)]
        if any(h.name in self.along for h in common):
            return None
        further = self._further(alike, [h for h in common if h.verdict in STREAMS])
        for roles in ([alike, *further], [alike]) if further else ([alike],):
            members = self._near(roles, common) if common else alike[:1]
            fault = self.trials.fault([*members, *others], double=True)
            if self.trials.over:
                return None
            if fault is None:
                return roles, self._needed(members, others)
        return None

    def _near(self, roles: Sequence[Sequence[Group]], common: Sequence[Group]) -> list[Group]:
        """Those that meet what they have in common."""
        return [g for r in roles for g in r if all(self.trials.meet(g, h) for h in common)]

    def _further(self, alike: Sequence[Group], streams: Sequence[Group]) -> list[list[Group]]:
        """Other roles of the same kind of which some meet the same streams: another class's heads.

        These cannot stay behind where the stream grows.
        """
        return [
            other
            for other in self.roles.values()
            if other is not alike
            and other[0].kind == alike[0].kind
            and not any(g.name in self.along for g in other)
            and streams
            and self._near([other], streams)
        ]

    def _needed(self, members: Sequence[Group], others: list[Group]) -> list[Group]:
        """Those of the others without whom the members would not fit."""
        for kind in self._by_kind(others):
            fewer = [h for h in others if h not in kind]
            if fewer and self.trials.fault([*members, *fewer], double=True) is None:
                others = others if self.trials.over else fewer
        return others

    def _is_common(self, h: Group, alike: Sequence[Group]) -> bool:
        """Whether a group is a partner of all of these: a stream that their modules read."""
        everywhere = len(alike) > 1 and all(self.trials.meet(g, h) for g in alike)
        return h.verdict in STREAMS or everywhere

    def _choices(self, alike: Sequence[Group]) -> list[list[Group]]:
        """The groups that are regrouped in the same modules: one at a time, then all of them."""
        g = alike[0]
        near = [h for h in self.able if h not in alike and self.trials.meet(g, h)]
        size, own = resolve(g.leaf).size, dims_of(g)

        def order(h: Group) -> tuple[bool, bool, bool]:
            factors = own & dims_of(h)
            return bool(factors), resolve(h.leaf).size != size, h.verdict != "growable"

        near.sort(key=order)
        near = near[: _PARTNERS * max(1, len(self.trials.modules[g.leaf]))]
        growable = [h for h in near if h.verdict == "growable"]
        several = [hs for hs in (growable, near) if len(hs) > 1]
        return [*self._by_kind(near), *several]

    def _by_kind(self, groups: Sequence[Group]) -> list[list[Group]]:
        kinds: dict[Alike | str, list[Group]] = defaultdict(list)
        for h in groups:
            kinds[self._kind(h)].append(h)
        return list(kinds.values())

    def _kind(self, h: Group) -> Alike | str:
        """What stands in other modules as this one does here."""
        return self.trials.alike(h) or h.name

    def _join(self, roles: Sequence[Sequence[Group]], others: Sequence[Group]) -> None:
        """Each of these grows along with what stands to it as `others` do to the first."""
        kinds, streams = {self._kind(h) for h in others}, defaultdict[str, list[str]](list)
        any_stream = any(h.verdict in STREAMS for h in others)
        shared = {h.name for h in others if self._is_common(h, roles[0])}
        for g in (g for alike in roles for g in alike):
            own = [
                h
                for h in self.able
                if h is not g
                and (self._kind(h) in kinds or (any_stream and h.verdict in STREAMS))
                and self.trials.meet(g, h)
            ]
            if len(own) < len(others):
                continue
            self.along[g.name] = tuple(h.name for h in own)
            for h in own:  # the other way round, but for one that is known to grow by itself
                if h.verdict in STREAMS or h.name in shared:
                    streams[h.name].append(g.name)
                elif h.name not in self.free and h.verdict == "growable":
                    back = self.along.get(h.name, ())
                    self.along[h.name] = back if g.name in back else (*back, g.name)
        self.along |= {name: tuple(names) for name, names in streams.items()}
