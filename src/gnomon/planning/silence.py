"""Growing a normed stream by channels that carry nothing new: what each tensor must hold.

Writers give the new channels zeros (RMSNorm) or the mean of the old ones (LayerNorm). The norm over
C' instead of C channels then gives sqrt(C'/C) times what it gave, if its eps shrinks by C/C'; its
gain takes that back:

    gain' = gain * sqrt(C/C')        eps' = eps * C/C'        bias' = [bias, 0]

A gain of (offset + slope * w) becomes so by  w' = w * s + (s - 1) * offset / slope,  s the root. A
norm without a gain leaves it to the weights that read it (`gnomon.analysis.bare_norms`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from gnomon.analysis.bare_norms import reader_scales
from gnomon.analysis.groups import Analysis, Group
from gnomon.analysis.norms import Eps, Norm, of_leaf, single
from gnomon.analysis.travel import State, Travel, travel
from gnomon.analysis.walk import Slot, whole
from gnomon.axes import Axis, leaves
from gnomon.embedding import Embedding
from gnomon.errors import CannotPreserve
from gnomon.ops.context import Fill
from gnomon.planning.edit import AttributeEdit

_OTHER = "Net2Net() copies all channels equally often (by=2, 3, ...)"


@dataclass(frozen=True)
class Silence:
    """What the slots of one group hold for channels that carry nothing new.

    loud:  readers of something that is not zero, which must not see it: their columns are zero.
    fills: what writers and biases give the new channels.
    """

    loud: frozenset[Slot]
    fills: Mapping[str, Fill]


def silent(e: Embedding) -> bool:
    """Whether some channels carry nothing new."""
    return bool((e.source < 0).any())


def louder(e: Embedding) -> Embedding:
    """The same channels seen by readers that must not see the silent ones: as fresh signals."""
    quiet = e.source < 0
    source = e.source.clone()
    source[quiet] = e.signals + quiet.nonzero().squeeze(1).argsort()
    return Embedding(source, e.factor, e.old, e.fresh + int(quiet.sum()), None)


def silence(model: nn.Module, analysis: Analysis, group: Group) -> Silence:
    """How a group grows by silent channels. Raises CannotPreserve if a norm would notice."""
    norms = [list(of_leaf(own, group.leaf)) for own in analysis.norms]
    is_layer = any(norm.kind == "layer" for own in norms for norm in own)
    if is_layer:
        _check_whole(analysis, group, norms)
    modules = {id(m): name for name, m in model.named_modules()}
    wanted: State = "mean" if is_layer else "zero"
    seen = travel(analysis.context, analysis.recordings, norms, group.leaf, wanted, modules)
    if seen.lost:
        raise CannotPreserve(f"{seen.lost}; {_OTHER}")
    tied = {slot for slot in seen.reads if slot[0] in seen.writers}
    if is_layer and any(seen.reads[slot] != {"zero"} for slot in tied):
        raise CannotPreserve(
            f"'{min(tied)[0]}' writes the mean of the others and reads channels that no norm has "
            f"taken it from: untie it (b.weight = nn.Parameter(a.weight.clone())); {_OTHER}"
        )
    loud = _loud(group, seen) - tied
    if all(slot in loud | tied for slot in _readers(group)) and not (is_layer and loud):
        raise CannotPreserve(f"no reader would see what new channels learn; {_OTHER}")
    rescaled(analysis, {group.leaf}, lambda axis: 2 * axis.size)  # whether norms can be adjusted
    fills: dict[str, Fill] = dict.fromkeys(seen.writers, "mean" if is_layer else "zero")
    fills |= dict.fromkeys(seen.neutral, "zero")
    return Silence(frozenset(loud), fills)


def _readers(group: Group) -> Iterator[Slot]:
    return ((s.name, s.dim) for s in group.slots if s.role == "read")


def _loud(group: Group, seen: Travel) -> set[Slot]:
    return {slot for slot in _readers(group) if seen.reads.get(slot) != {"zero"}}


def _check_whole(analysis: Analysis, group: Group, norms: list[list[Norm]]) -> None:
    """The mean of the others is one number only if the norm averages these channels alone."""
    for norm in (n for own in norms for n in own):
        if norm.kind != "layer":
            raise CannotPreserve(
                f"the channels of '{group.name}' are under LayerNorm and under RMSNorm; {_OTHER}"
            )
        if not all(whole(axis, group.leaf) for axis in norm.axes):
            raise CannotPreserve(
                f"the norm in '{norm.where}' averages other axes together with the channels of "
                f"'{group.name}'; {_OTHER}"
            )
    for slot in (s for s in group.slots if s.role != "read"):
        if not whole(analysis.context.dims[slot.name][slot.dim], group.leaf):
            raise CannotPreserve(
                f"'{slot.name}' writes the channels of '{group.name}' among others, so it has no "
                f"mean of its own for each of them; {_OTHER}"
            )


@dataclass(frozen=True)
class Rescaled:
    """What norms over more channels need: (scale, shift) per gain or reader, and other eps."""

    gains: Mapping[str, tuple[float, float]]
    attributes: tuple[AttributeEdit, ...]


def rescaled(analysis: Analysis, quiet: set[Axis], size: Callable[[Axis], int]) -> Rescaled:
    """The edits of all norms over leaves that grow by silent channels.

    size: the grown size of an axis. Raises CannotPreserve for a norm that cannot be adjusted.
    """
    gains: dict[str, tuple[float, float]] = {}
    attributes: dict[tuple[str, str], AttributeEdit] = {}
    bare: dict[Norm, float] = {}
    for norm in _norms_over(analysis, quiet):
        q = math.prod(a.size for a in norm.axes) / math.prod(size(a) for a in norm.axes)
        scale = math.sqrt(q)
        if norm.gain is None:
            bare[norm] = scale
        else:
            change = scale, (scale - 1.0) * norm.gain.offset / norm.gain.slope
            if gains.setdefault(norm.gain.name, change) != change:
                raise CannotPreserve(f"norms over other channels share the gain '{norm.gain.name}'")
        edit = None if norm.eps is None else _smaller(norm.eps, q, norm.where)
        if edit is not None and attributes.setdefault((edit.path, edit.name), edit) != edit:
            raise CannotPreserve(f"norms over other channels share '{edit.path}.{edit.name}'")
    gains_alone(analysis, quiet, gains)
    readers = reader_scales(analysis.context, analysis.recordings, bare, quiet) if bare else {}
    gains |= {name: (scale, 0.0) for name, scale in readers.items()}
    return Rescaled(gains, tuple(attributes.values()))


def _norms_over(analysis: Analysis, quiet: set[Axis]) -> Iterator[Norm]:
    for own in analysis.norms:
        for norm in own:
            if any(leaf in quiet for axis in norm.axes for leaf in leaves(axis)):
                yield norm


def _smaller(eps: Eps, q: float, where: str) -> AttributeEdit | None:
    if eps.value == 0 or (eps.path is None and eps.value <= eps.least):
        return None  # as small as rounding: nn.RMSNorm(eps=None)
    if eps.path is None:
        raise CannotPreserve(
            f"the eps of the norm in '{where}', {eps.value}, stands in the code and not in an "
            f"attribute, so it cannot be made smaller: keep it as one (self.eps = {eps.value}). "
            f"{_OTHER}"
        )
    return AttributeEdit(eps.path, eps.name, eps.held, eps.held * q)


def gains_alone(
    analysis: Analysis, quiet: set[Axis], gains: Mapping[str, tuple[float, float]]
) -> None:
    """A gain that something else uses too cannot be rescaled."""
    if not gains:
        return
    inside = {id(op) for norm in _norms_over(analysis, quiet) for op in norm.ops}
    for recording in analysis.recordings:
        for op in (op for op in recording.ops if id(op) not in inside):
            for x in op.tensors():
                name = analysis.context.origin(x)
                moved = any(analysis.context.origin(y) == name for y in op.outputs)
                if name in gains and not moved:
                    raise CannotPreserve(
                        f"{op.name} uses '{name}' too, which is the gain of a norm; {_OTHER}"
                    )


def moved_eps(
    analysis: Analysis, attributes: tuple[AttributeEdit, ...]
) -> dict[int, dict[float, float]]:
    """Per operation (its id), the constants that an edit of eps changes: old -> new."""
    new = {(a.path, a.name): a.new for a in attributes if isinstance(a.new, float)}
    found: dict[int, dict[float, float]] = {}
    for eps in (norm.eps for own in analysis.norms for norm in own if norm.eps is not None):
        value = new.get((eps.path or "", eps.name)) if eps.path is not None else None
        if value is not None:
            assert isinstance(value, float)
            found[id(eps.op)] = {eps.value: value if eps.value == eps.held else single(value)}
    return found
