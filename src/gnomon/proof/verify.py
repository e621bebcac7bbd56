"""The proof on the example inputs: what the model gave before and after, in both modes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import itemgetter

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from gnomon.errors import NotProved, Unsupported
from gnomon.ops.context import Op
from gnomon.planning.edit import TensorEdit
from gnomon.planning.plan import Plan
from gnomon.proof.in_double import InDouble, double
from gnomon.recording.passes import NONE, Passes
from gnomon.recording.tape import Call, owned_tensors, record, runs_of

# The old and the new model are also compared in float64 if its weights fit this many bytes.
FLOAT64_BUDGET = 1 << 29

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}

# A float64 model has no better answer to be compared with. Its own rounding is estimated by moving
# its inputs by 4 units in the last place; growth reorders many more sums than that.
JITTER, JITTER_MARGIN = 2.0**-50, 16

# What a float32 model may move in float64: its stored weights satisfy the equation exactly.
PRECISE = 1e-9


@dataclass(frozen=True)
class Answers:
    """What a model gives on the example inputs: per call, in eval and in train mode.

    outputs: in the model's dtype.
    precise: in float64, or None where that cannot be had.
    jittered: of a float64 model, on inputs that are a few units in the last place away.
    narrow: the first operation of a float64 model that computes in less, or "".
    """

    outputs: list[list[Tensor]]
    precise: list[list[Tensor]] | None
    jittered: list[list[Tensor]] | None = None
    narrow: str = ""

    @property
    def in_eval_mode(self) -> Answers:
        """Those of every second run: eval and train mode take turns."""
        return Answers(
            self.outputs[::2],
            None if self.precise is None else self.precise[::2],
            None if self.jittered is None else self.jittered[::2],
            self.narrow,
        )

    def noise(self, i: int, j: int) -> float | None:
        """The model's own rounding in one output, or None if that cannot be told."""
        if self.precise is not None:
            return _relative(self.precise[i][j], self.outputs[i][j])
        if self.jittered is not None:
            return JITTER_MARGIN * _relative(self.outputs[i][j], self.jittered[i][j])
        return None


@dataclass(frozen=True)
class Proof:
    """How far the function moved, relative to the largest output.

    change:      max over output tensors of max|change| / max|old|, in the model's dtype.
    precise:     the same in float64, or None where that cannot be had.
    noise_floor: the old model's own rounding: its outputs against its float64 ones; of a float64
                 model, what a few units in the last place of its inputs do. None if unknown.
    excess:      the output that moved most beyond its limit: (change, limit), or None.
    """

    change: float
    precise: float | None
    noise_floor: float | None
    excess: tuple[float, float] | None = None
    expectation: float | None = None
    narrow: str = ""


@dataclass(frozen=True)
class Before:
    """What the old model gave: on the calls, and where it matters in train mode on their halves."""

    answers: Answers
    training: list[Tensor]

    def compared(
        self,
        model: nn.Module,
        calls: Sequence[Call],
        plan: Plan,
        known: Passes = NONE,
    ) -> tuple[Proof, Answers]:
        """How far the model has moved since, as far as the plan promises that it does not.

        known: as for `answers`. Returns the new answers too.
        """
        new, rounded = answers(model, varied(calls), known), _rounded(plan)
        if plan.claim != "expectation":
            return compare(self.answers, new, rounded=rounded), new
        now = training_outputs(model, halves(calls))
        shown = compare(self.answers.in_eval_mode, new.in_eval_mode, rounded=rounded)
        return replace(shown, expectation=largest_change(self.training, now)), new


def answers(model: nn.Module, calls: Sequence[Call], known: Passes = NONE) -> Answers:
    """Run the example inputs in both modes.

    known: passes of the model as it is. One in train mode stands in only where the pass in float64
    shows what the model does with autograd on, as in training.
    """
    outputs, precise, jittered = [], [], []
    narrow: list[str] = []

    def look(op: Op) -> None:
        if not narrow and any(o.is_floating_point() and o.dtype.itemsize < 8 for o in op.outputs):
            where = f" in {type(op.path[-1]).__name__}" if op.path else ""
            narrow.append(f"{op.name}{where}")

    own = any(p.dtype == torch.float64 for p in model.parameters())
    double = not own and _fits_budget(model)  # else it is its own float64 answer
    for call in calls:  # all of them first: what stands in for a pass rests on every one
        values = _double_answers(model, call) if double else None
        double = values is not None
        precise += values or []
    for i, training in itertools.product(range(len(calls)), (False, True)):
        call = calls[i]
        run = known.of(i, training) if double or not training else None
        if run is None or (training and not _agree(run.outputs, precise[2 * i + 1])):
            run = record(model, call, training=training, fake=False, keep=False, gradients=training)
        outputs.append([_plain(y) for y in run.outputs])
        if own:
            near = record(
                model, _jittered(call), training=training, fake=False, keep=False,
                gradients=training, on_op=look,
            )  # fmt: skip
            jittered.append([_plain(y) for y in near.outputs])
    first = narrow[0] if narrow else ""
    return Answers(outputs, precise if double else None, jittered if own else None, first)


def _agree(outputs: Sequence[Tensor], precise: Sequence[Tensor]) -> bool:
    """Whether a pass without autograd gave what the one in float64 gave with it, but for rounding.

    Otherwise what autograd changes would be taken for rounding, and as much allowed.
    """
    if [y.shape for y in outputs] != [y.shape for y in precise]:
        return False
    pairs = zip(precise, map(_plain, outputs), strict=True)
    return all(_relative(exact, y) <= _limit(y) for exact, y in pairs)


def _jittered(call: Call) -> Call:
    generator = torch.Generator().manual_seed(0)

    def near(x: Tensor) -> Tensor:
        if x.dtype != torch.float64:
            return x
        noise = torch.randn(x.shape, generator=generator, dtype=torch.float64, device="cpu")
        return x * (1 + JITTER * noise.to(x.device).sign())

    args, kwargs = pytree.tree_map_only(Tensor, near, call)
    return args, kwargs


def varied(calls: Sequence[Call]) -> list[Call]:
    """The calls, and for those whose floats are all alike (zeros, ones) one with random numbers.

    A model without biases gives zeros on zeros, and nothing could be told from that.
    """
    generator = torch.Generator().manual_seed(0)

    def drawn(x: Tensor) -> Tensor:
        noise = torch.randn(x.shape, generator=generator, dtype=torch.float64, device="cpu")
        return noise.to(x) if x.is_floating_point() else x

    found = list(calls)
    for call in calls:
        floats = [x for x in pytree.tree_leaves(call) if isinstance(x, Tensor)]
        floats = [x for x in floats if x.is_floating_point() and x.numel() > 1 and not x.is_meta]
        if floats and all(bool((x == x.flatten()[0]).all()) for x in floats):
            args, kwargs = pytree.tree_map_only(Tensor, drawn, call)
            found.append((args, kwargs))
    return found


def halves(calls: Sequence[Call]) -> list[Call]:
    """Two calls of half the examples for each one of four or more: other batches of the same data.

    Only of calls whose tensors all have the same leading dimension.
    """
    found: list[Call] = []
    for call in calls:
        tensors = [x for x in pytree.tree_leaves(call) if isinstance(x, Tensor)]
        sizes = {x.shape[0] if x.dim() else 0 for x in tensors}
        n = sizes.pop() if len(sizes) == 1 else 0
        for part in (slice(0, n // 2), slice(n // 2, n)) if n >= 4 else ():
            args, kwargs = pytree.tree_map_only(Tensor, itemgetter(part), call)
            found.append((args, kwargs))
    return found


def training_outputs(model: nn.Module, calls: Sequence[Call]) -> list[Tensor]:
    """What a model gives in train mode."""
    found: list[Tensor] = []
    with runs_of(model) as runs:
        for call in calls:
            run = runs.record(call, training=True, fake=False, keep=False)
            found += map(_plain, run.outputs)
    return found


def largest_change(old: Sequence[Tensor], new: Sequence[Tensor]) -> float | None:
    """max over tensors of max|change| / max|old|; None of nothing."""
    return max((_relative(a, b) for a, b in zip(old, new, strict=True)), default=None)


def _fits_budget(model: nn.Module) -> bool:
    tensors = [t for t in owned_tensors(model).values() if t.is_floating_point()]
    return 0 < sum(t.numel() for t in tensors) * 8 <= FLOAT64_BUDGET


def _double_answers(model: nn.Module, call: Call) -> list[list[Tensor]] | None:
    """The outputs in both modes with weights and inputs in float64.

    None if the code insists on its dtype.
    """
    args, kwargs = pytree.tree_map_only(Tensor, double, call)
    found: list[list[Tensor]] = []
    try:
        with runs_of(model) as runs:
            for training in (False, True):
                runs.put_back()  # the copies are of what the model is
                run = runs.record(
                    (args, kwargs), training=training, fake=False, keep=False, gradients=training,
                    through=InDouble(model),
                )  # fmt: skip
                if any(d.is_floating_point and d != torch.float64 for d in run.dtypes):
                    return None
                found.append([_plain(y) for y in run.outputs])
    except Exception:  # whatever a foreign forward raises: there is no float64 answer then
        return None
    return found


def _plain(y: Tensor) -> Tensor:
    y = y.detach()
    return y.clone() if y.layout == torch.strided else y.to_dense()


def _rounded(plan: Plan) -> bool:
    """Some new weights are rounded to their dtype: sqrt(v + eps), 1 / kappa, solved factors, gains.

    So are writers of the mean of other channels, keys that make up for another scale of attention,
    and everything that is turned.
    """
    if plan.turns or any(factor != 1 for factor in plan.against.values()):
        return True
    if any(e.rescales or _averages(e) for e in plan.edits):
        return True
    return any(edit.start in ("identity", "factored", "branched") for edit in plan.modules)


def _averages(edit: TensorEdit) -> bool:
    return edit.fill == "mean" and any(d.role == "write" for d in edit.dims)


def compare(old: Answers, new: Answers, *, rounded: bool = False) -> Proof:
    """How far the function moved, output by output.

    rounded: new weights satisfy the equation to the rounding of their dtype, not exactly.
    """
    change, noise, precise, known = 0.0, 0.0, 0.0, False
    excess: tuple[float, float] | None = None
    for i, (before, after) in enumerate(zip(old.outputs, new.outputs, strict=True)):
        if [y.shape for y in before] != [y.shape for y in after]:
            return Proof(float("inf"), None, None, (float("inf"), 0.0))
        for j, (a, b) in enumerate(zip(before, after, strict=True)):
            moved, limit = _relative(a, b), _limit(a)
            own = old.noise(i, j)
            if own is not None:
                noise, limit, known = max(noise, own), max(limit, own), True
            if old.precise is not None and new.precise is not None:
                exact = _relative(old.precise[i][j], new.precise[i][j])
                precise = max(precise, exact)
                most = max(PRECISE, _limit(a)) if rounded else PRECISE
                if exact > most:
                    moved, limit = exact, most
            change = max(change, moved)
            if not moved <= limit and (excess is None or moved > excess[0]):
                excess = moved, limit
    both = old.precise is not None and new.precise is not None
    return Proof(
        change, precise if both else None, noise if known else None, excess, narrow=old.narrow
    )


def _limit(old: Tensor) -> float:
    dtype = old.dtype
    if not dtype.is_floating_point:
        return 0.0
    return TOLERANCE.get(dtype, 4 * torch.finfo(dtype).eps)


def _relative(old: Tensor, new: Tensor) -> float:
    """max|change| / max|old|; infinities at the same places are equal."""
    if not old.numel():
        return 0.0
    if not (old.is_floating_point() or old.is_complex()):
        return 0.0 if bool((old == new).all()) else 1.0
    wide = torch.complex128 if old.is_complex() else torch.float64
    same = (old == new) | (old.isnan() & new.isnan())
    finite = old.isfinite() & new.isfinite()
    if not bool((same | finite).all()):
        return float("inf")
    a, b = old[finite].to(wide), new[finite].to(wide)
    if not a.numel():
        return 0.0
    change, size = float((a - b).abs().max()), float(a.abs().max())
    return change / size if size else change


def check_comparable(old: Answers) -> None:
    """Raise Unsupported if the old model's outputs are NaN: nothing could be told from them."""
    for outputs in old.outputs:
        for y in outputs:
            if y.is_floating_point() and bool(y.isnan().any()):
                raise Unsupported(
                    "the model's outputs on the example inputs hold NaN, so nothing can be proved "
                    "of them: look for NaN weights, or give other example inputs"
                )


def accept(proof: Proof, plan: Plan) -> None:
    """Raise NotProved if an output moved further than rounding explains."""
    if plan.claim in ("exact", "expectation") and proof.excess is not None:
        moved, limit = proof.excess
        why = "something in this model mixes channels in a way that its tape does not show"
        if proof.narrow and moved <= TOLERANCE[torch.float32]:
            why = (
                f"this float64 model computes in less ({proof.narrow}), so how much of that is "
                f"rounding cannot be told. Grow it in float32"
            )
        raise NotProved(
            f"an output of the grown model differs by {moved:.1e} of its largest value, more than "
            f"the {limit:.1e} that rounding allows: {why}. Everything was undone"
        )
