"""What must grow along with a stream: found by growing the stream, and by following what fails.

`C // heads` fits heads that grow with C; a convolution beside them may give C channels too, and
the next class of blocks has heads of its own. So the first operation that fails names the module,
what it regroups there is grown along, and the next failure is looked at, until all runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gnomon.analysis.groups import Group
from gnomon.code.regrouping import Part
from gnomon.code.repair import TiedInCode
from gnomon.code.trials import STREAMS, Trials, dims_of

_STEPS = 6  # failures that are followed for one stream
_WAYS = 4  # that are tried at one of them
_REST = (1, 4000, 30)  # what trials may run for streams of which there was no time to say more


def streams(
    trials: Trials, refused: Mapping[str, str]
) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Per group, which others grow along: of streams, and of what they take along.

    Also the streams that cannot grow, and why, as far as trials may tell.

    refused: groups that cannot grow alone.
    """
    search = _Streams(trials, refused)
    faults: dict[str, TiedInCode] = {}
    waiting = [g for g in trials.analysis.groups if g.verdict in STREAMS]
    while waiting and not trials.over:
        g = waiting.pop(0)
        fault = None if g.name in search.along else trials.fault([g], double=True)
        if fault is not None:
            faults[g.name] = fault
            search.try_one(g, fault)
    trials.allow(*_REST)
    for g in waiting:
        fault = None if trials.over or g.name in search.along else trials.fault([g], double=True)
        if fault is not None:
            faults[g.name] = fault
    cannot = {name: str(fault) for name, fault in faults.items() if name not in search.along}
    return search.along, cannot


class _Streams:
    def __init__(self, trials: Trials, refused: Mapping[str, str]) -> None:
        self.trials, self.alone = trials, refused
        self.helped: set[object] = set()  # the roles of what streams took along
        self.along: dict[str, tuple[str, ...]] = {}
        self.able = trials.able

    def try_one(self, stream: Group, fault: TiedInCode) -> None:
        """Find out with whom a stream grows. fault: where the code fails if it grows alone."""
        found = self._as_before(stream) or self._followed([stream], fault, _STEPS)
        if found is None or self.trials.over:
            return
        others = [g for g in found if g is not stream]
        self.helped |= {self._role(g) for g in others}
        self._join(stream.name, [g.name for g in others])
        for g in others:
            if g.name in self.alone or g.verdict in STREAMS:
                self._join(g.name, [stream.name])

    def _join(self, name: str, others: Sequence[str]) -> None:
        self.along[name] = tuple(dict.fromkeys((*self.along.get(name, ()), *others)))

    def _as_before(self, stream: Group) -> list[Group] | None:
        """A stream with what stands beside it as what another one took along, if that is all."""
        beside = self._beside(stream)
        counted = {d for g in beside if g.kind == "heads" for d in dims_of(g)}
        others = [
            g
            for g in beside
            if self._role(g) in self.helped and (g.kind == "heads" or not counted & dims_of(g))
        ]
        if not others or self.trials.fault([stream, *others], double=True) is not None:
            return None
        return [stream, *others]

    def _followed(self, members: list[Group], fault: TiedInCode, steps: int) -> list[Group] | None:
        """These and whoever must grow along, or None. fault: where the code fails with these."""
        for role in self._roles(members, fault)[:_WAYS] if steps else ():
            more = [*members, *role]
            then = self.trials.fault(more, double=True)
            if self.trials.over:
                return None
            if then is None:
                return more
            if then.difference.place > fault.difference.place:
                found = self._followed(more, then, steps - 1)
                if found is not None or self.trials.over:
                    return found
        return None

    def _roles(self, members: Sequence[Group], fault: TiedInCode) -> list[list[Group]]:
        """What may grow along where it fails, each with those that are the same beside the stream.

        Heads first: that is what code counts. A group that multiplies a member is none of them.
        """
        _, touched = self.trials.failing(fault)
        owner, modules = self.trials.failing_in(fault), self.trials.modules
        own = {d for g in members if g.verdict not in STREAMS for d in dims_of(g)}
        free = [g for g in self.able if g not in members and not own & dims_of(g)]
        here = [g for g in free if g.leaf in touched or owner in modules.get(g.leaf, ())]
        here.sort(key=lambda g: (g.leaf not in touched, g.kind != "heads"))
        roles = {self._role(g): [g] for g in here}
        for g in self._beside(members[0]):
            role = roles.get(self._role(g))
            if role is not None and g in free and g not in role:
                role.append(g)
        return list(roles.values())

    def _beside(self, stream: Group) -> list[Group]:
        """What is read, written or regrouped in modules that read or write a stream."""
        around = self.trials.near(stream) - {id(self.trials.model)}  # but not what holds them all
        near = self.trials.near
        return [g for g in self.able if g is not stream and not near(g).isdisjoint(around)]

    def _role(self, g: Group) -> object:
        """What a group has in common with those that stand elsewhere as it stands here."""
        regrouped = self.trials.alike(g)
        if regrouped and g.kind != "channels":  # some blocks of a class go on with a mask, say
            return g.kind, frozenset(place[0] for place, _ in regrouped)
        if regrouped:  # the first place is before they go on
            return min(regrouped, key=_early)
        get = self.trials.model.get_submodule
        parts = [(*s.name.rpartition(".")[::2], s.dim) for s in g.slots]
        return frozenset((type(get(path)), name, dim) for path, name, dim in parts)


def _early(part: Part) -> tuple[int, str, str, tuple[int, int]]:
    """For comparison: how early in a call of its module, and the same in every process."""
    (owner, name, number), where = part
    return number, name, owner.__qualname__, where
