"""One growth under way: modules put in, tensors edited, code repaired, and the proof."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.optim import Optimizer

from gnomon.adding.additions import Added, add_modules, check_runs
from gnomon.adding.calibration import calibrate, watch_of
from gnomon.adding.making import Tried
from gnomon.analysis.groups import Analysis, analyse
from gnomon.axes import Axis
from gnomon.code.prediction import Prediction
from gnomon.code.repair import confirm_scales, repair
from gnomon.editing.describing import check_described
from gnomon.editing.surgery import Surgery, operate
from gnomon.ops.context import OpRule
from gnomon.planning.plan import Plan
from gnomon.planning.silence import moved_eps
from gnomon.proof.algebra import prove_algebra
from gnomon.proof.fast_path import check_fast_path
from gnomon.proof.found import Found
from gnomon.proof.statistics import Watch, measure_statistics, statistics_of, write_statistics
from gnomon.proof.verify import (
    Answers,
    Before,
    Proof,
    accept,
    answers,
    check_comparable,
    halves,
    training_outputs,
    varied,
)
from gnomon.recording.passes import NONE, Passes
from gnomon.recording.tape import Call


@dataclass(frozen=True)
class Growth:
    """What one growth works on, and what it does there, in this order.

    keep: whether another growth follows at once, so that what is measured stays of use.
    """

    model: nn.Module
    calls: list[Call]
    ops: Mapping[str, OpRule]
    optimizers: Sequence[Optimizer]
    keep: bool

    def operate(
        self, plan: Plan, analysis: Analysis, surgery: Surgery, tried: Tried
    ) -> tuple[Added, Analysis, Passes | None]:
        """Put modules in and edit tensors.

        Returns the analysis that the edits were planned for with the modules in it, and passes of
        the model as it is, if some were made.
        """
        passes = None
        added = add_modules(self.model, plan, self.optimizers, surgery, tried)
        fits = not plan.edits or bool(leaf_sizes(plan, analysis))
        if added.modules and fits:
            passes = self._settle(analysis, added)
        if plan.edits or plan.attributes:
            passes = None
        if added.modules and fits and plan.edits:
            analysis = analyse(self.model, self.calls, self.ops)
            analysis.read()
        operate(self.model, plan, self.optimizers, surgery)
        if added.modules and not fits:  # what was added belongs to what the edits make
            passes = self._settle(analysis, added)
        return added, analysis, passes

    def _settle(self, analysis: Analysis, added: Added) -> Passes | None:
        """See that new modules run where they were put, and give their norms statistics."""
        watch = None if analysis.fake else watch_of(self.model, added)
        see = None if watch is None else watch.look
        trained = check_runs(self.model, self.calls, analysis, added, training=True, on_op=see)
        calibrate(self.model, self.calls, added, watch)
        evaluated = check_runs(self.model, self.calls, analysis, added, training=False)
        if watch is None:
            return None
        set_by_batch = any(edit.start == "identity" for _, edit, _ in added.modules)
        passes = Passes(evaluated, trained if watch.apart and not set_by_batch else None)
        return passes if self.keep else passes.without_operations

    def before(self, plan: Plan, analysis: Analysis, found: Found | None) -> Before:
        """What the model gives now. Raises Unsupported where that cannot be compared."""
        old = None if found is None else found.answers
        if old is None:
            recorded = analysis.recordings
            known = NONE if analysis.fake else Passes(recorded[::2], recorded[1::2])
            old = answers(self.model, varied(self.calls), known)
        check_comparable(old)
        expected = plan.claim == "expectation"
        return Before(old, training_outputs(self.model, halves(self.calls)) if expected else [])

    def repaired(
        self, plan: Plan, analysis: Analysis, surgery: Surgery, passes: Passes | None
    ) -> tuple[Plan, Passes | None]:
        """See that the code runs as predicted, repair it, and set statistics of new channels."""
        sizes = leaf_sizes(plan, analysis)
        if not sizes:
            return plan, passes
        prediction = Prediction(analysis, sizes, moved=moved_eps(analysis, plan.attributes))
        passes = self._predicted(plan, prediction)
        if passes is not None:
            confirm_scales(plan, prediction)
            return plan, passes
        repaired = repair(self.model, self.calls, prediction, surgery)
        confirm_scales(plan, prediction)
        plan = replace(plan, attributes=(*plan.attributes, *repaired))
        check_described(self.model, plan)
        measured = measure_statistics(self.model, self.calls, statistics_of(plan))
        with torch.no_grad(), on_cpu():
            write_statistics(self.model, plan, measured)
        return plan, None

    def _predicted(self, plan: Plan, prediction: Prediction) -> Passes | None:
        """The passes if they need no repair, with statistics set between the two modes."""
        if prediction.analysis.fake:
            return None
        watch, keep = Watch(self.model, statistics_of(plan)), self.keep
        trained = prediction.runs(
            self.model, self.calls, training=True, keep=keep, on_op=watch.look if watch else None
        )
        if trained is None:
            return None
        with torch.no_grad(), on_cpu():
            write_statistics(self.model, plan, watch.measured())
        evaluated = prediction.runs(self.model, self.calls, training=False, keep=keep)
        if evaluated is None:
            return None
        return Passes(evaluated, trained if watch.apart else None)

    def prove(
        self, plan: Plan, surgery: Surgery, before: Before | None, passes: Passes | None
    ) -> tuple[Proof, Answers | None]:
        """Check the equation on every stored tensor, then the outputs. Raises NotProved."""
        with torch.no_grad(), on_cpu():
            prove_algebra(self.model, plan, surgery)
        if plan.modules:
            check_fast_path(self.model, self.calls)
        if before is None:
            return Proof(float("nan"), None, None), None
        shown, after = before.compared(self.model, self.calls, plan, passes or NONE)
        accept(shown, plan)
        return shown, after


def on_cpu() -> contextlib.AbstractContextManager[object]:
    """New tensors are made on the CPU, whatever the default device is (entering it costs time)."""
    usual = torch.get_default_device().type == "cpu"
    return contextlib.nullcontext() if usual else torch.device("cpu")


def leaf_sizes(plan: Plan, analysis: Analysis) -> dict[Axis, int]:
    """The new size of each axis that a plan grows."""
    if not plan.sizes:
        return {}
    leaf = {g.name: g.leaf for g in analysis.groups}
    return {leaf[name]: size for name, size in plan.sizes.items() if name in leaf}
