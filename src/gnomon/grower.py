"""Grower: a model, its example inputs and its optimizer; analyse, plan, grow, prove."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import nn
from torch.optim import Optimizer

from gnomon.additions import Added, add_modules, check_runs
from gnomon.algebra import prove_algebra
from gnomon.axes import Axis
from gnomon.calibration import calibrate
from gnomon.errors import Stale, Unsupported
from gnomon.fingerprint import fingerprint, structure
from gnomon.groups import Analysis, Group, analyse, table
from gnomon.morphs.subject import Subject
from gnomon.ops.context import OpRule
from gnomon.optimizers import check_optimizers
from gnomon.plan import Plan
from gnomon.planner import with_measured_spreads
from gnomon.prediction import Prediction
from gnomon.receipt import Receipt, Seconds
from gnomon.repair import repair
from gnomon.statistics import measure_statistics, statistics_of, write_statistics
from gnomon.surgery import (
    Surgery,
    held_parameters,
    operate,
    refuse_live_graph,
    undone_on_error,
)
from gnomon.tape import Call, calls_of, owned_tensors
from gnomon.trial import refuse, tied_in_code
from gnomon.verify import (
    Before,
    Proof,
    accept,
    answers,
    check_comparable,
    halves,
    training_outputs,
    varied,
)
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
        self._calls = calls_of(example_inputs)
        self._optimizers = _as_tuple(optimizer)
        self._ops = dict(ops or {})
        check_optimizers(model, self._optimizers)
        self._analysis: Analysis | None = None
        self._structure = ""
        self._tied: dict[str, str] = {}
        self._analyse()
        self._known = self._structure
        self.complete = True  # whether `history` holds all growth since this grower was made

    @property
    def analysis(self) -> Analysis:
        """What is known about the model as it is now; analysed again after a growth."""
        if self._analysis is None or self._structure != structure(self.model):
            return self._analyse()
        return self._analysis

    def _analyse(self) -> Analysis:
        found, digest = analyse(self.model, self._calls, self._ops), structure(self.model)
        if digest != self._structure:
            self._tied = tied_in_code(self.model, self._calls, found)
        self._structure = digest
        self._analysis = refuse(found, self._tied)
        return self._analysis

    @property
    def calls(self) -> list[Call]:
        """The example inputs, one (positional, keywords) per call."""
        return self._calls

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
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise ValueError(f"seed must be a whole number, not {seed!r}")
        subject = Subject(self.model, self.analysis, self._calls, self._ops)
        with on_cpu(), torch.inference_mode(False):
            return morph.plan(subject, seed)

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
        self._analysis = None  # a forward that enables gradients leaves its graph on the tape
        held = held_parameters(self.model)
        start = time.perf_counter()
        analysis = self._analyse()  # anew: training may have annealed a constant meanwhile
        analysed = time.perf_counter()
        plan = what if isinstance(what, Plan) else self.plan(what, seed)
        planned = time.perf_counter()
        self._check(plan, analysis)
        plan = with_measured_spreads(plan, self.model)
        refuse_live_graph(plan, held)
        self.complete &= self._structure == self._known
        before = self._before(plan) if proof == "full" else None
        surgery = Surgery()
        with undone_on_error(surgery):
            with on_cpu():
                added = add_modules(self.model, plan, self._optimizers, surgery)
                fits = not plan.edits or bool(leaf_sizes(plan, analysis))
                if added.modules and fits:
                    self._settle(analysis, added)
                if added.modules and fits and plan.edits:
                    analysis = analyse(self.model, self._calls, self._ops)
                operate(self.model, plan, self._optimizers, surgery)
                if added.modules and not fits:  # what was added belongs to what the edits make
                    self._settle(analysis, added)
            applied, shown = self._prove(plan, analysis, surgery, before)
        done = time.perf_counter()
        self._analysis, self._known = None, structure(self.model)
        self.history = (*self.history, applied)
        proving = done - planned - surgery.seconds - surgery.drawing
        seconds = Seconds(
            analysed - start,
            planned - analysed, surgery.seconds, surgery.drawing, proving,
        )  # fmt: skip
        receipt = Receipt(
            applied, shown.change, shown.precise, shown.noise_floor, plan.preserves,
            plan.parameters, plan.flops, seconds, proof, added.renamed,
            applied.attributes[len(plan.attributes) :],
            shown.expectation,
        )  # fmt: skip
        logger.info("%s", receipt)
        return receipt

    def _settle(self, analysis: Analysis, added: Added) -> None:
        """See that new modules run where they were put, and give their norms statistics."""
        check_runs(self.model, self._calls, analysis, added)
        calibrate(self.model, self._calls, added)

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

    def _before(self, plan: Plan) -> Before:
        old = answers(self.model, varied(self._calls))
        check_comparable(old)
        expected = plan.claim == "expectation"
        return Before(old, training_outputs(self.model, halves(self._calls)) if expected else [])

    def _prove(
        self, plan: Plan, analysis: Analysis, surgery: Surgery, before: Before | None
    ) -> tuple[Plan, Proof]:
        sizes = leaf_sizes(plan, analysis)
        if sizes:
            prediction = Prediction(analysis, sizes)
            repaired = repair(self.model, self._calls, prediction, surgery)
            plan = replace(plan, attributes=(*plan.attributes, *repaired))
            measured = measure_statistics(self.model, self._calls, statistics_of(plan))
            with torch.no_grad(), on_cpu():
                write_statistics(self.model, plan, measured)
        with torch.no_grad(), on_cpu():
            prove_algebra(self.model, plan, surgery)
        if before is None:
            return plan, Proof(float("nan"), None, None)
        shown = before.compared(self.model, self._calls, plan)
        accept(shown, plan)
        return plan, shown

    def __str__(self) -> str:
        return table(self.model, self.analysis)


def on_cpu() -> contextlib.AbstractContextManager[object]:
    """New tensors are made on the CPU, whatever the default device is (entering it costs time)."""
    usual = torch.get_default_device().type == "cpu"
    return contextlib.nullcontext() if usual else torch.device("cpu")


def leaf_sizes(plan: Plan, analysis: Analysis) -> dict[Axis, int]:
    """The new size of each axis that a plan grows."""
    leaf = {g.name: g.leaf for g in analysis.groups}
    return {leaf[name]: size for name, size in plan.sizes.items() if name in leaf}


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
