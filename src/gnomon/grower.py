"""Grower: a model, its example inputs and its optimizer; analyse, plan, grow, prove."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import nn
from torch.optim import Optimizer

from gnomon.adding.additions import Added
from gnomon.adding.making import Tried
from gnomon.adjustments.pace import follow
from gnomon.analysis.groups import Analysis, Group, analyse, table
from gnomon.code.ties import Ties, refuse, tied_in_code
from gnomon.editing.optimizers import check_optimizers
from gnomon.editing.renewal import check_kept, renew_kept
from gnomon.editing.surgery import (
    Surgery,
    held_parameters,
    refuse_live_graph,
    undone_on_error,
)
from gnomon.errors import Stale, Unsupported
from gnomon.growth import Growth, on_cpu
from gnomon.morphs.subject import Subject
from gnomon.ops.context import OpRule
from gnomon.planning.fingerprint import fingerprint, structure
from gnomon.planning.plan import Plan
from gnomon.planning.spreads import with_measured_spreads
from gnomon.proof.found import Found, marks
from gnomon.receipt import Receipt, Seconds
from gnomon.recording.passes import Passes
from gnomon.recording.tape import Call, Recording, calls_of, owned_tensors, wants_fake
from gnomon.recording.thrift import Thrift
from gnomon.wrapped import refuse_student, refuse_wrapped

logger = logging.getLogger("gnomon")

ProofKind = Literal["full", "algebra"]


@runtime_checkable
class Morph(Protocol):
    """What changes; it turns an analysed model into a plan."""

    def plan(self, subject: Subject, seed: int) -> Plan:
        """The edits on this model; raises GrowthError if it cannot be done."""


class Grower:
    """Grows one model in place, carries its optimizer, and proves that nothing else changed.

    model:          any module; DDP, compiled and scripted wrappers are refused (grow before).
    example_inputs: a tensor; a tuple = positional; a dict = keywords; a list = several calls.
    optimizer:      one or several, whose state goes along.
    ops:            op rules of your own, {"namespace::operation": rule}.

    Raises Unsupported if the forward fails on the inputs, InUse for a wrapped model.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: object,
        optimizer: Optimizer | Iterable[Optimizer] | None = None,
        *,
        ops: Mapping[str, OpRule] | None = None,
    ) -> None:
        refuse_wrapped(model)
        refuse_student(model)
        self.model = model
        self.history: tuple[Plan, ...] = ()
        self.new_parameters: tuple[nn.Parameter, ...] = ()  # whole ones, of the last growth
        self._calls = calls_of(example_inputs)
        self._optimizers = _as_tuple(optimizer)
        self._ops = dict(ops or {})
        check_optimizers(model, self._optimizers)
        self._analysis: Analysis | None = None
        self._structure = ""
        self._marks: tuple[object, ...] = ()
        self._tied: Ties | None = None
        self._moments = 0  # that are open
        self._found: Found | None = None
        self._analyse()
        self._known = self._structure
        self.complete = True  # whether `history` holds all growth since this grower was made

    @property
    def analysis(self) -> Analysis:
        """What is known about the model as it is now; analysed again after a growth."""
        refuse_wrapped(self.model)  # it may have been sharded since
        known = self._analysis
        if known is None or self._structure != structure(self.model):
            known = self._analyse()
        elif not known.is_read and self._marks != marks(self.model):
            known = self._analyse()  # what other numbers do on the tape may be told by these
        known.read()
        return known

    def _analyse(self, recordings: list[Recording] | None = None) -> Analysis:
        found = analyse(self.model, self._calls, self._ops, recordings)
        digest = structure(self.model)
        if digest != self._structure:
            self._tied = None
        self._structure, self._marks = digest, marks(self.model)
        self._analysis = refuse(found, self._ties)
        return self._analysis

    def _ties(self, analysis: Analysis) -> Ties:
        """What the code ties: the same as long as the model's structure is."""
        if self._tied is None:
            self._tied = tied_in_code(self.model, self._calls, analysis)
        return self._tied

    @property
    def calls(self) -> list[Call]:
        """The example inputs, one (positional, keywords) per call."""
        return self._calls

    @property
    def optimizers(self) -> tuple[Optimizer, ...]:
        """The optimizers whose state goes along."""
        return self._optimizers

    @property
    def ops(self) -> dict[str, OpRule]:
        """The op rules of the user's own."""
        return self._ops

    @property
    def groups(self) -> tuple[Group, ...]:
        """All groups of channels, growable or not."""
        return self.analysis.groups

    def plan(self, morph: Morph, seed: int = 0) -> Plan:
        """The edits a morph makes, with nothing touched; raises GrowthError if it cannot be."""
        if not isinstance(morph, Morph):
            raise ValueError(f"plan() takes a morph such as Widen(...), not {morph!r}")
        _check_seed(seed)
        return self._plan(morph, seed, Subject(self.model, self.analysis, self._calls, self._ops))

    def _plan(self, morph: Morph, seed: int, subject: Subject) -> Plan:
        with on_cpu(), torch.inference_mode(False):
            return morph.plan(subject, seed)

    @contextlib.contextmanager
    def moment(self) -> Iterator[None]:
        """Several growths in a row: nothing changes the model or what its code reads in between.

        What the proof of one growth has measured is then where the next one starts; otherwise the
        model is analysed and measured anew.
        """
        self._moments += 1
        try:
            yield
        finally:
            self._moments -= 1
            self._found = None

    def grow(self, what: Plan | Morph, *, seed: int = 0, proof: ProofKind = "full") -> Receipt:
        """Grow in place, prove it, and return the receipt; or undo everything and raise.

        proof: "algebra" checks the stored tensors only and skips the forward passes.
        Raises Stale, InUse, Unsupported, CannotPreserve or NotProved.
        """
        if not isinstance(what, Plan | Morph):
            raise ValueError(f"grow() takes a plan or a morph such as Widen(...), not {what!r}")
        if proof not in ("full", "algebra"):
            raise ValueError(f"proof must be 'full' or 'algebra', not {proof!r}")
        with torch.inference_mode(False):
            return self._grow(what, seed, proof)

    def _grow(self, what: Plan | Morph, seed: int, proof: ProofKind) -> Receipt:
        refuse_wrapped(self.model)  # it may have been sharded since
        self._analysis = None  # a forward that enables gradients leaves its graph on the tape
        start = time.perf_counter()
        found, held = self._start()
        # outside of a moment anew: training may have annealed a constant meanwhile
        analysis = self._analyse(None if found is None else found.recordings)
        analysed = time.perf_counter()
        plan, tried = self._planned(what, seed, analysis, proved=proof == "full")
        planned = time.perf_counter()
        self._check(plan, analysis)
        if plan.edits or plan.attributes:
            analysis.read()  # the last moment: the model is about to change
        read = analysis.seconds - analysis.recorded
        plan = with_measured_spreads(plan, self.model)
        refuse_live_graph(plan, held)
        check_kept(self.model, self._calls)
        self.complete &= self._structure == self._known
        growth = Growth(self.model, self._calls, self._ops, self._optimizers, self._moments > 0)
        before = growth.before(plan, analysis, found) if proof == "full" else None
        surgery, old = Surgery(thrift=Thrift.of(self.model)), set(self.model.parameters())
        surgery.thrift.tidy()
        with undone_on_error(surgery):
            with on_cpu():
                added, analysis, passes = growth.operate(plan, analysis, surgery, tried)
            surgery.thrift.tidy()
            applied, passes = growth.repaired(plan, analysis, surgery, passes)
            renew_kept(self.model, surgery)
            shown, after = growth.prove(applied, surgery, before, passes)
            for optimizer in self._optimizers:
                surgery.on_undo(follow(optimizer, self.model, plan))
        surgery.thrift.tidy()
        done = time.perf_counter()
        self._analysis, self._known = None, structure(self.model)
        if self._moments:
            self._found = Found(marks(self.model), self._tapes(passes), after)
        self.history = (*self.history, applied)
        self.new_parameters = tuple(p for p in _put_in(added) if p not in old)
        proving = done - planned - surgery.seconds - surgery.drawing
        seconds = Seconds(
            analysed - start + read,
            planned - analysed - read, surgery.seconds, surgery.drawing, proving,
        )  # fmt: skip
        receipt = Receipt(
            applied, shown.change, shown.precise, shown.noise_floor, plan.preserves,
            plan.parameters, plan.flops, seconds, proof, added.renamed,
            applied.attributes[len(plan.attributes) :],
            shown.expectation,
        )  # fmt: skip
        logger.info("%s", receipt)
        return receipt

    def _start(self) -> tuple[Found | None, set[str]]:
        """What is known from the growth before, and the parameters that some graph still holds."""
        found, self._found = self._found, None
        held = held_parameters(self.model)
        if found is not None and (held or found.marks != marks(self.model)):
            found = None  # if it is our own tape that holds a graph, it goes with it
            held = held_parameters(self.model)
        return found, held

    def _tapes(self, passes: Passes | None) -> list[Recording] | None:
        """What the next analysis would record."""
        if passes is None or wants_fake(self.model, self._calls):
            return None
        return passes.in_turn

    def _planned(
        self, what: Plan | Morph, seed: int, analysis: Analysis, *, proved: bool
    ) -> tuple[Plan, Tried]:
        tried = Tried()
        if isinstance(what, Plan):
            return what, tried
        _check_seed(seed)
        subject = Subject(
            self.model, analysis, self._calls, self._ops, fresh=True, proved=proved, tried=tried
        )
        return self._plan(what, seed, subject), tried

    def _check(self, plan: Plan, analysis: Analysis) -> None:
        if plan.fingerprint != fingerprint(structure(self.model), analysis):
            raise Stale(
                f"{plan.morph} was planned for a model with other names, shapes, classes or "
                f"operations: call plan() again"
            )
        if any(t.is_meta for t in owned_tensors(self.model).values()):
            raise Unsupported(
                "a model on 'meta' has no weights to grow: plan on it, then grow the real model "
                "(model.to_empty(device=...) and load its weights first)"
            )

    def __str__(self) -> str:
        return table(self.model, self.analysis)


def _check_seed(seed: object) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ValueError(f"seed must be a whole number, not {seed!r}")


def _put_in(added: Added) -> dict[nn.Parameter, None]:
    """The parameters of new modules; what a fold moves is not new."""
    several = (m for m, edit, _ in added.modules if edit.start != "folded")
    return dict.fromkeys(p for module in several for p in module.parameters())


def _as_tuple(optimizer: Optimizer | Iterable[Optimizer] | None) -> tuple[Optimizer, ...]:
    if optimizer is None:
        return ()
    several: tuple[object, ...] = (optimizer,)
    if isinstance(optimizer, Iterable) and not isinstance(optimizer, str):
        several = tuple(optimizer)
    found = tuple(o for o in several if isinstance(o, Optimizer))
    if len(found) != len(several):
        raise ValueError(f"optimizer must be a torch.optim.Optimizer or several, not {optimizer!r}")
    return found
