"""Grow a model that several processes train together: every rank ends with the same bits.

    model = ddp.module; del ddp                        # the wrapper holds every parameter
    grow_together(gn.Grower(model, x, optimizer), gn.Widen("*", by=2))
    ddp = DistributedDataParallel(model)

Rank 0 draws the plan and sends it as JSON. Draws are keyed by seed and name, so the ranks' weights
would come out alike by themselves; but whatever is measured on the example inputs (running
statistics, the spread of a new block) is a rank's own wherever its examples are. Therefore rank 0
also sends the tensors that grew, the new ones, and all buffers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gnomon import errors
from gnomon.errors import GrowthError, Unsupported
from gnomon.grower import Grower, Morph, ProofKind
from gnomon.planning.plan import Plan
from gnomon.receipt import Receipt
from gnomon.recording.tape import owned_tensors

T = TypeVar("T")


class RanksDiffer(GrowthError):
    """The processes do not hold the same parameters, or one of them failed where others did not."""


class AllRanks(Grower):
    """A grower whose growths all ranks do alike, for a `Timeline` in a loop of one's own."""

    def grow(self, what: Plan | Morph, *, seed: int = 0, proof: ProofKind = "full") -> Receipt:
        """As `grow_together`."""
        return grow_together(self, what, seed=seed, proof=proof)


def grow_together(
    grower: Grower, what: Plan | Morph, *, seed: int = 0, proof: ProofKind = "full"
) -> Receipt:
    """Grow on every rank alike; every rank calls it, with its own grower. Alone: `grower.grow`.

    The model must be out of its DDP wrapper. Blocks given as modules come from each rank's own
    morph, their values from rank 0. Raises what `Grower.grow` raises, on every rank, and
    RanksDiffer if the parameters differ before (nothing is touched then) or after.
    """
    if not _several():
        return Grower.grow(grower, what, seed=seed, proof=proof)
    refuse_difference(grower.model, "before the growth")
    grower._analysis = None  # training may have changed what was recorded
    own = _alike(lambda: what if isinstance(what, Plan) else grower.plan(what, seed))
    plan = _with_templates(Plan.from_json(_from_first(own.to_json()), [type(own.rule)]), own)
    before = {id(t) for t in owned_tensors(grower.model).values()}
    receipt = _alike(lambda: Grower.grow(grower, plan, proof=proof))
    grown = {edit.name for edit in plan.edits}
    buffers = dict(grower.model.named_buffers())
    for name, tensor in owned_tensors(grower.model).items():
        if name in grown or name in buffers or id(tensor) not in before:
            _send(tensor)
    refuse_difference(grower.model, "after the growth")
    return receipt


def refuse_difference(model: nn.Module, when: str = "") -> None:
    """Raise RanksDiffer, on every rank, unless all hold the same parameters bit for bit."""
    digests = _gathered(json.dumps(dict(_digests(model))))
    if len(set(digests)) == 1:
        return
    tables: list[dict[str, str]] = [json.loads(d) for d in digests]
    names = [n for n in tables[0] if any(t.get(n) != tables[0][n] for t in tables)]
    shown = names or [n for t in tables for n in t if n not in tables[0]]
    raise RanksDiffer(
        f"the ranks do not hold the same parameters {when}: {shown[:4]} ({len(shown)}) differ. "
        f"Start them from one seed or one checkpoint, and grow with grow_together on all"
    )


def from_rank_zero(values: Mapping[str, float]) -> dict[str, float]:
    """Rank 0's measurements, so that all ranks decide alike."""
    return {str(k): float(v) for k, v in json.loads(_from_first(json.dumps(dict(values)))).items()}


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _from_first(text: str) -> str:
    if not _several():
        return text
    held = [text]
    dist.broadcast_object_list(held, src=0)
    return str(held[0])


def _gathered(text: str) -> list[str]:
    if not _several():
        return [text]
    found: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(found, text)
    return found


def _alike(act: Callable[[], T]) -> T:
    """Do it on every rank; if it is refused on one, raise that on all instead of waiting forever.

    The refused rank is what it was. If others went on, the ranks differ now, and that is said.
    """
    result: list[T] = []
    own: Exception | None = None
    try:
        result.append(act())
    except Exception as fault:
        own = fault
    told = _gathered(json.dumps(None if own is None else [type(own).__name__, str(own)]))
    faults = [json.loads(t) for t in told]
    failed = [rank for rank, fault in enumerate(faults) if fault is not None]
    if not failed:
        return result[0]
    if own is not None and len(failed) == len(faults):
        raise own
    kind, text = faults[failed[0]]
    message = f"rank {failed[0]}: {text} (ranks {failed} of {len(faults)} failed)"
    if any(isinstance(r, Receipt) for r in result) or isinstance(own, errors.NotProved):
        raise RanksDiffer(
            f"{message}. The others have grown: go on from a checkpoint, on all ranks"
        ) from own
    known = getattr(errors, kind, Unsupported)
    raise known(message) from own


def _with_templates(plan: Plan, own: Plan) -> Plan:
    """Rank 0's plan with the modules that JSON does not hold."""
    if [m.place for m in plan.modules] != [m.place for m in own.modules]:
        raise RanksDiffer(
            f"rank 0 would put modules behind {[m.place for m in plan.modules]}, this rank behind "
            f"{[m.place for m in own.modules]}: give the same morph on every rank"
        )
    pairs = zip(plan.modules, own.modules, strict=True)
    return replace(plan, modules=tuple(replace(m, template=o.template) for m, o in pairs))


def _send(tensor: Tensor) -> None:
    """Rank 0's bits of one tensor, of any dtype and layout in memory."""
    dense = tensor.detach().contiguous()
    whole = dense.reshape(-1).view(torch.uint8)
    dist.broadcast(whole, src=0)
    with torch.no_grad():
        tensor.copy_(dense)


def _digests(model: nn.Module) -> Iterator[tuple[str, str]]:
    for name, p in model.named_parameters():
        bits = p.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        text = f"{tuple(p.shape)} {p.dtype}".encode()
        yield name, hashlib.sha256(text + bits.numpy().tobytes()).hexdigest()[:16]
