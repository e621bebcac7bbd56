"""A table that both writes a stream and reads it, when every channel is copied k times.

Its columns are copied as those of a writer are. Read, k equal copies count k times, so what they
are read from must be k times smaller: 1/k goes into the gain and the bias of the norm before it,
which is possible if nothing else sees what that norm gives.
"""

from __future__ import annotations

from collections.abc import Iterator

from gnomon.analysis.dataflow import Dataflow, Value
from gnomon.analysis.groups import Analysis, Group
from gnomon.analysis.norms import Norm, of_leaf
from gnomon.embedding import Embedding
from gnomon.errors import CannotPreserve
from gnomon.ops.context import Context, Op
from gnomon.ops.names import MOVES_OF_ONE
from gnomon.planning.silence import gains_alone

_PRODUCTS = ("mm", "bmm", "addmm", "baddbmm")


def equal_copies(e: Embedding) -> int:
    """How many channels carry each old signal, if all are carried equally often; else 0."""
    k = e.size // e.old
    return k if e.fresh == 0 and bool((e.copies == k).all() and (e.factor == 1).all()) else 0


def shares(analysis: Analysis, group: Group, k: float) -> dict[str, tuple[float, float]]:
    """(scale, shift) of the gain and the bias before the tied reader.

    Raises CannotPreserve if there is no such norm, or if others see what it gives.
    """
    tied = _tied(analysis, group)
    found: dict[str, tuple[float, float]] = {}
    dividing: set[int] = set()
    for recording, own in zip(analysis.recordings, analysis.norms, strict=True):
        flow = Dataflow(recording.ops)
        for norm in of_leaf(own, group.leaf):
            if norm.out is None:
                continue
            readers = list(_readers(analysis.context, flow, norm.out))
            if not any(tied & set(names) for _, names in readers):
                continue
            if norm.gain is None or any(not names or set(names) - tied for _, names in readers):
                others = sorted(
                    {op.name for op, names in readers if set(names) - tied or not names}
                )
                raise _refusal(
                    group, tied, f"{', '.join(others)} also uses what '{norm.where}' gives"
                )
            dividing |= {id(op) for op, _ in readers}
            found |= _divided(norm, k)
        _check_all(analysis.context, recording.ops, flow, tied, dividing, group)
    gains_alone(analysis, {group.leaf}, found)
    return found


def _divided(norm: Norm, k: float) -> dict[str, tuple[float, float]]:
    assert norm.gain is not None
    shift = (1 / k - 1) * norm.gain.offset / norm.gain.slope
    found = {norm.gain.name: (1 / k, shift)}
    return found | ({norm.bias: (1 / k, 0.0)} if norm.bias is not None else {})


def _tied(analysis: Analysis, group: Group) -> set[str]:
    """The tensors with a dimension that is both read and written."""
    roles: dict[tuple[str, int], set[str]] = {}
    for use in analysis.context.uses:
        for dim, axis in enumerate(analysis.context.dims[use.name]):
            if axis is use.axis:
                roles.setdefault((use.name, dim), set()).add(use.role)
    own = {(slot.name, slot.dim) for slot in group.slots}
    return {slot[0] for slot in own if {"read", "write"} <= roles.get(slot, set())}


def _readers(t: Context, flow: Dataflow, value: Value) -> Iterator[tuple[Op, list[str]]]:
    """Operations that compute with a value, moved or not, and the parameters they read it by."""
    for op in flow.users(value):
        if op.name in MOVES_OF_ONE:
            yield from _readers(t, flow, flow.made(op))
        else:
            factors = op.args[1:3] if op.name in ("addmm", "baddbmm") else op.args[:2]
            names = [t.origin(x) for x in factors] if op.name in _PRODUCTS else []
            yield op, [name for name in names if name is not None]


def _check_all(
    t: Context, ops: list[Op], flow: Dataflow, tied: set[str], dividing: set[int], group: Group
) -> None:
    """Every product with a tied table must read what a divided norm gives."""
    for op in ops:
        names = {t.origin(x) for x in op.tensors()}
        if op.name in _PRODUCTS and names & tied and id(op) not in dividing:
            raise _refusal(group, tied, "it reads what no norm with a gain of its own gives")


def _refusal(group: Group, tied: set[str], reason: str) -> CannotPreserve:
    return CannotPreserve(
        f"'{min(tied, default=group.name)}' both writes and reads the channels of '{group.name}', "
        f"and {reason}: untie it (b.weight = nn.Parameter(a.weight.clone())), or use "
        f"NetMorph(zero='writers')"
    )
