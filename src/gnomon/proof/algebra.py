"""The proof on the stored tensors: `V' E = [V, 0]` for readers, equal rows for twins."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from gnomon.editing.surgery import Surgery
from gnomon.embedding import Embedding, signal_sums
from gnomon.errors import NotProved
from gnomon.planning.edit import TensorEdit
from gnomon.planning.pieces import Piece, is_in_pieces, pieces
from gnomon.planning.plan import Plan
from gnomon.proof.turned_proof import turn_problem, turned_problem
from gnomon.recording.tape import owned_tensors
from gnomon.recording.thrift import Thrift

_CHUNK = 1 << 19  # entries that are worked on in float64 at a time: 4 MB


def prove_algebra(model: nn.Module, plan: Plan, surgery: Surgery) -> None:
    """Check the equation on every stored tensor: V' E = [V, 0], and equal rows for twins.

    Raises NotProved with the tensor's name.
    """
    if not plan.preserves:
        return
    owned, gains = owned_tensors(model), surgery.old
    if problem := turn_problem(plan):
        raise NotProved(problem)
    for edit in plan.edits:
        old, new = surgery.old[edit.name], owned[edit.name].detach()
        if plan.turns:
            problem = turned_problem(old, new, edit, plan, gains)
        elif is_in_pieces(edit):
            parts = pieces(edit, plan)
            found = (_piece_problem(old, new, piece, plan) for piece in parts)
            problem = next(filter(None, found), "")
        else:
            problem = _whole_problem(old, new, edit, plan, surgery.thrift)
        surgery.thrift.done_with(old)
        if problem:
            raise NotProved(f"'{edit.name}' does not satisfy the equation: {problem}")


def _whole_problem(old: Tensor, new: Tensor, edit: TensorEdit, plan: Plan, thrift: Thrift) -> str:
    for seen, kept in _chunks(new, edit.rescaled(old), {d.dim for d in edit.dims}):
        problem = _algebra(kept, seen, edit, plan.embedding, old)
        thrift.drop(kept)
        if problem:
            return problem
    return ""


def _piece_problem(old: Tensor, new: Tensor, piece: Piece, plan: Plan) -> str:
    now = piece.taken(new, piece.new)
    if piece.factor != 1:
        now = now.double() / piece.factor
    before = piece.taken(old, piece.old)
    return _algebra(piece.edit.rescaled(before), now, piece.edit, plan.embedding, before)


def _algebra(
    kept: Tensor, new: Tensor, edit: TensorEdit, embedding: Callable[..., Embedding], old: Tensor
) -> str:
    """What does not hold of the old values `kept` and the new ones; old: all, for their size."""
    seen = new
    for d in edit.dims:
        e = embedding(d.form)
        if d.role == "read":
            continue
        for _, channels in e.classes:
            first = seen.index_select(d.dim, channels[:, 0].to(new.device))
            for twin in channels.T[1:]:
                if not torch.equal(first, seen.index_select(d.dim, twin.to(new.device))):
                    return f"twins differ along dimension {d.dim}"
        representative = torch.full((e.signals,), -1)
        for signals, channels in e.classes:
            representative[signals] = channels[:, 0]
        silent = (e.source < 0).nonzero().squeeze(1)
        if edit.fill == "zero" and bool(new.index_select(d.dim, silent.to(new.device)).any()):
            return f"channels that carry nothing are not zero along dimension {d.dim}"
        if bool((representative[: e.old] < 0).any()):
            return f"an old channel is carried by none of the new ones along dimension {d.dim}"
        seen = seen.index_select(d.dim, representative[: e.old].to(new.device))
    read = [d for d in edit.dims if d.role == "read"]
    if not read:
        return _off(seen, kept, old)
    for part, target in _chunks(seen, kept, {d.dim for d in read}):
        for d in read:
            e = embedding(d.form)
            part, target = _signals(part, d.dim, e), _padded(target, d.dim, e)
        problem = _off(part, target, old)
        if problem:
            return problem
    return ""


def _off(seen: Tensor, kept: Tensor, old: Tensor) -> str:
    """By how much readers are off, or ''."""
    if torch.equal(seen.to(kept.dtype), kept):
        return ""
    error = float((seen.double() - kept.double()).abs().max())
    limit = 4 * torch.finfo(old.dtype).eps * float(old.abs().max().double())
    return "" if error <= limit else f"readers are off by {error:.1e}"


def _chunks(seen: Tensor, kept: Tensor, dims: set[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """Parts of both along another dimension than these, each small enough for float64."""
    dim = next((i for i in range(seen.dim()) if i not in dims), None)
    if dim is None or not seen.shape[dim]:
        yield seen, kept
        return
    step = max(1, _CHUNK * seen.shape[dim] // max(1, seen.numel()))
    for start in range(0, seen.shape[dim], step):
        length = min(step, seen.shape[dim] - start)
        yield seen.narrow(dim, start, length), kept.narrow(dim, start, length)


def _signals(x: Tensor, dim: int, e: Embedding) -> Tensor:
    """What readers see of each signal, along one dimension."""
    moved = x.detach().cpu().movedim(dim, 1 if x.dim() > 1 else 0)
    flat = moved.reshape(moved.shape[0] if x.dim() > 1 else 1, e.size, -1)
    wide = flat.dtype if flat.dtype == torch.float64 else torch.float64
    sums = signal_sums(flat.to(wide), e).reshape(
        *(moved.shape[:1] if x.dim() > 1 else ()), e.signals, *moved.shape[2:]
    )
    return sums.movedim(1 if x.dim() > 1 else 0, dim)


def _padded(x: Tensor, dim: int, e: Embedding) -> Tensor:
    shape = list(x.shape)
    shape[dim] = e.fresh
    return torch.cat([x.detach().cpu().double(), torch.zeros(shape, dtype=torch.float64)], dim)
