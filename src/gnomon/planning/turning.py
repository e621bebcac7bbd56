"""What the tensors of a normed stream do when it is turned, found on the tape; or why it cannot be.

A stream is turned if it carries T x everywhere, which norms over the channels keep:

    norm(T x) = T norm(x)

A gain tells channels apart, so it goes into what reads the norm: V diag(gain) T+ reads T norm(x),
a bias of the norm becomes T (bias / gain), and the gain is 1. Where something else than a reader
comes behind a gain (a residual sum, a tied table), it must stay, and be one number for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from gnomon.analysis.groups import Analysis, Group
from gnomon.analysis.norms import of_leaf
from gnomon.analysis.turn_states import OTHER, NotBehind, Seen
from gnomon.analysis.turn_travel import TurnWalk
from gnomon.analysis.walk import Slot
from gnomon.axes import Axis, factors, leaves, resolve, segments
from gnomon.errors import CannotPreserve, Unsupported
from gnomon.ops.context import Context, Role
from gnomon.planning.edit import Behind, DimEdit, TensorEdit
from gnomon.planning.silence import gains_alone
from gnomon.planning.tied_streams import shares
from gnomon.recording.tape import owned_tensors


@dataclass(frozen=True)
class Turning:
    """What the slots of one group do when its channels are turned.

    roles:  per slot: "write" is turned, "read" is turned back, "follow" is one number.
    behind: per slot that is read, or added, behind a gain, that gain.
    gains:  per gain, and tied bias, (scale, shift) of its entries before anything is turned.
    notes:  what the plan says of it.
    """

    roles: Mapping[Slot, Role]
    behind: Mapping[Slot, Behind]
    gains: Mapping[str, tuple[float, float]]
    notes: tuple[str, ...]


def turning(model: nn.Module, analysis: Analysis, group: Group, size: int) -> Turning:
    """How a group is turned into `size` channels of its leaf.

    Raises CannotPreserve where something would see the turn.
    """
    _check_norms(analysis, group)
    kept: dict[str, str] = {}
    while True:
        try:
            seen = _walked(model, analysis, group, frozenset(kept))
            break
        except NotBehind as refusal:
            kept[refusal.gain.name] = str(refusal)
    owned = owned_tensors(model)
    for name, why in kept.items():
        _check_constant(owned[name], name, why)
    _check_slots(group, seen)
    _check_biases(owned, seen)
    alone = {g.name: (1.0, 0.0) for g in seen.gains | seen.kept}
    gains_alone(analysis, {group.leaf}, alone | {n: (1.0, 0.0) for n, _ in seen.biases})
    gains = {g.name: (0.0, (1.0 - g.offset) / g.slope) for g in seen.gains}
    tied = _tied(seen)
    if tied:
        gains |= shares(analysis, group, size / group.leaf.size)
    roles: dict[Slot, Role] = {(s.name, s.dim): "follow" for s in group.slots}
    roles |= dict.fromkeys(seen.reads, "read")
    roles |= dict.fromkeys([*seen.writes, *seen.biases], "write")
    behind = {
        slot: Behind(group.name, g.name, g.slope, g.offset, g.name in seen.wholes)
        for slot, found in seen.behind()
        for g in found
        if g is not None
    }
    return Turning(roles, behind, gains, _notes(group, seen))


def turned_dims(edit: TensorEdit, turnings: Mapping[str, Turning]) -> tuple[DimEdit, ...]:
    """The dimensions of an edit with their roles in the turns, and the gains they take over.

    Raises Unsupported for a dimension that holds several groups in several roles.
    """
    found = []
    for d in edit.dims:
        own = [turnings[group] for group in sorted(d.form.names())]
        slot = edit.name, d.dim
        roles = {turning.roles[slot] for turning in own}
        if len(roles) > 1 or d.form.is_against:
            raise Unsupported(
                f"'{edit.name}' has channels of several groups along one dimension, of which some "
                f"are written and some read, so they are not turned together: name one of them"
            )
        behind = tuple(turning.behind[slot] for turning in own if slot in turning.behind)
        if len({b.gain for b in behind}) < len(behind):
            raise Unsupported(
                f"'{edit.name}' reads several groups behind one norm, which are not turned "
                f"together: grow one after the other"
            )
        found.append(replace(d, role=roles.pop(), behind=behind))
    return tuple(found)


def _walked(model: nn.Module, analysis: Analysis, group: Group, kept: frozenset[str]) -> Seen:
    """What all recordings show. Raises NotBehind where one gain more has to stay."""
    seen, modules = Seen(), {id(m): name for name, m in model.named_modules()}
    for recording, own in zip(analysis.recordings, analysis.norms, strict=True):
        norms = list(of_leaf(own, group.leaf))
        TurnWalk(analysis.context, group.leaf, norms, modules, kept, seen).run(recording.ops)
    for slot, gains in seen.behind():
        found = sorted((g for g in gains if g is not None), key=lambda g: g.name)
        if found and (len(gains) > 1 or slot in seen.writes):
            use = "both writes and reads the channels" if slot in seen.writes else (
                "reads them behind different norms, or without one"
            )  # fmt: skip
            raise NotBehind(found[0], f"'{slot[0]}' {use}")
    return seen


def _tied(seen: Seen) -> set[Slot]:
    return seen.reads.keys() & seen.writes


def _check_norms(analysis: Analysis, group: Group) -> None:
    t = analysis.context
    for norm in (n for own in analysis.norms for n in of_leaf(own, group.leaf)):
        if len(norm.axes) != 1 or not _evenly(norm.axes[0], group.leaf):
            raise CannotPreserve(
                f"the norm in '{norm.where}' averages other channels together with those of "
                f"'{group.name}', which are not turned along; {OTHER}"
            )
        if norm.out is None:
            raise CannotPreserve(
                f"what the norm in '{norm.where}' gives is not multiplied by one parameter of its "
                f"own, so no reader can take over its gain; {OTHER}"
            )
        for name in (None if norm.gain is None else norm.gain.name, norm.bias):
            if name is not None:
                _check_vector(t, name, norm.axes[0])


def _evenly(axis: Axis, leaf: Axis) -> bool:
    """Whether a turn of a leaf is one of an axis: every entry of the axis is one of the leaf's."""
    axis = resolve(axis)
    if axis.kind == "sum":
        return all(_evenly(part, leaf) for part in segments(axis))
    if axis.kind == "product":
        return sum(_evenly(part, leaf) for part in factors(axis)) == 1
    return axis is leaf


def _check_vector(t: Context, name: str, axis: Axis) -> None:
    """A gain or a bias has one number for each entry that is averaged, or one for all."""
    wanted = [resolve(leaf) for leaf in leaves(axis)]
    found = [[resolve(leaf) for leaf in leaves(own)] for own in t.dims[name] if own.size != 1]
    if found not in ([wanted], []):
        raise CannotPreserve(f"'{name}' has other dimensions than the channels; {OTHER}")


def _check_constant(gain: Tensor, name: str, why: str) -> None:
    if gain.is_meta or bool((gain == gain.flatten()[0]).all()):
        return  # one that has no values yet is looked at when it is grown
    raise CannotPreserve(
        f"{why}, behind the gain '{name}', which differs from channel to channel: only linear "
        f"layers and convolutions that read a norm can take over its gain. Untie a tied table "
        f"(b.weight = nn.Parameter(a.weight.clone())); {OTHER}"
    )


def _check_slots(group: Group, seen: Seen) -> None:
    """Every tensor with these channels must have been met on the way."""
    gains = {g.name for g in seen.gains | seen.kept}
    for at in ((s.name, s.dim) for s in group.slots):
        if at not in seen.reads and at not in seen.writes | seen.biases.keys():
            if at[0] not in gains:
                raise CannotPreserve(
                    f"'{at[0]}' has the channels of '{group.name}', but neither writes nor "
                    f"reads them where they are turned; {OTHER}"
                )
    for slot in _tied(seen):
        if group.verdict != "tied":
            raise CannotPreserve(f"'{slot[0]}' is read and written along one dimension; {OTHER}")


def _check_biases(owned: Mapping[str, Tensor], seen: Seen) -> None:
    for (name, _), gains in seen.biases.items():
        for g in gains:
            bias, gain = owned[name].detach(), owned[g.name]
            if not (bias.is_meta or gain.is_meta):
                divided(bias, values(gain, g.slope, g.offset), name, g.name)


def values(parameter: Tensor, slope: float, offset: float) -> Tensor:
    """(N,) float64: what a gain multiplies the channels by."""
    return parameter.detach().double().flatten() * slope + offset


def divided(bias: Tensor, gain: Tensor, name: str, gain_name: str) -> Tensor:
    """bias / gain, float64 of the bias' shape; 0 where both are.

    Raises CannotPreserve where a channel has a bias and no gain.
    """
    flat = bias.double().flatten()
    lost = (gain == 0) & (flat != 0)
    if bool(lost.any()):
        raise CannotPreserve(
            f"'{gain_name}' is 0 for {int(lost.sum())} channels that '{name}' is not 0 for, so the "
            f"gain cannot go into what reads the norm: make these gains different from 0; {OTHER}"
        )
    return (flat / torch.where(gain == 0, 1.0, gain)).reshape(bias.shape)


def _notes(group: Group, seen: Seen) -> tuple[str, ...]:
    notes = [f"'{group.name}' is turned: all weights that write or read it change"]
    if seen.gains:
        notes.append(f"gains of norms over '{group.name}' go into the weights that read them")
    if seen.random:
        where = ", ".join(f"'{name}'" for name in list(seen.random)[:3])
        notes.append(
            f"dropout on '{group.name}' ({where}) drops other mixtures of it than before: eval "
            f"mode is the same, train mode with dropout is so in expectation only"
        )
    return tuple(notes)
