"""Replicate: all experts of a mixture several times, with the router's rows and its top-k."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from gnomon.adding.expert_counts import Edits, from_attributes, from_settings
from gnomon.adding.mixtures import Mixture, mixture_at, refusal
from gnomon.analysis.flops import flops_of
from gnomon.axes import Form
from gnomon.editing.settings import shapes
from gnomon.embedding import Embedding, monomial
from gnomon.errors import CannotPreserve, GrowthError, NoSuchGroup
from gnomon.morphs.places import find, only_visit
from gnomon.morphs.subject import Subject
from gnomon.morphs.tried_mixtures import tried
from gnomon.planning.attributes import grown_attributes
from gnomon.planning.edit import DimEdit, ModuleEdit, TensorEdit, WidthChange
from gnomon.planning.plan import Plan
from gnomon.planning.spec import path_of
from gnomon.planning.spreads import with_measured_spreads
from gnomon.recording.tape import Recording, owned_tensors
from gnomon.rules import Net2Net


@dataclass(frozen=True)
class Replicate:
    """More experts: `by` times all of a mixture's experts, its router's rows and its top-k.

        router   R | R        top-k   k * by        experts   V + Z | V - Z   (their last kernels)

    Copies of an expert have equal scores, so that they are picked together; their shares add up to
    the expert's, and so do their outputs. That holds where a softmax over all experts, or a
    division by the sum, makes the shares `by` times smaller; where they stay as they are (sigmoids
    alone), the last kernels add up to V instead of by * V.

    where: the module that holds router and experts, or a glob or list of these. Experts are
           slices of stacked parameters, or modules of an nn.ModuleList.
    rule:  Net2Net() divides last kernels unevenly, so that copies part ways at the first step;
           Net2Net(uneven=False) leaves them equal, which they then are for ever.

    Numbers of experts and of the top-k in attributes and in a configuration change along.
    Raises ValueError if the request makes no sense for any model.
    Source: none of the papers; the copies are Net2WiderNet's, of whole experts.
    """

    where: str | Sequence[str]
    by: int = 2
    rule: Net2Net = field(default_factory=Net2Net)

    def __post_init__(self) -> None:
        named = isinstance(self.where, str | Sequence) and len(self.patterns) > 0
        if not named or not all(isinstance(p, str) and p for p in self.patterns):
            raise ValueError(f"where must name modules, not {self.where!r}")
        if type(self.by) is not int or self.by < 2:
            raise ValueError(f"by must be a whole number of 2 or more, not {self.by!r}")
        if type(self.rule) is not Net2Net:
            raise ValueError(f"copies are made by Net2Net(), not by {self.rule!r}")

    @property
    def patterns(self) -> tuple[str, ...]:
        """`where` as a tuple."""
        return (self.where,) if isinstance(self.where, str) else tuple(self.where)

    def __str__(self) -> str:
        rule = "" if self.rule == Net2Net() else f", rule={self.rule!r}"
        return f"Replicate({self.where!r}, by={self.by}{rule})"

    def plan(self, subject: Subject, seed: int) -> Plan:
        """The copies, and the numbers that say so. Raises GrowthError where it cannot be."""
        mixtures, skipped = self._found(subject)
        try:
            plan, runs = self._tried(subject, mixtures, seed)
        except GrowthError as refused:
            raise type(refused)(f"{self} cannot be done: {refused}") from None
        recording = subject.analysis.recordings[0]
        flops = flops_of(recording.ops) // subject.examples
        more = sum(
            flops_of(run.ops) - flops_of(recording.ops[v.start : v.end])
            for m, run in zip(mixtures, runs, strict=True)
            for v in [only_visit(subject, subject.model.get_submodule(m.path), m.path)]
            if run is not None
        )
        grown = sum(t.numel() for t in _parameters(subject.model, plan).values())
        return replace(
            plan,
            skipped=tuple(skipped),
            parameters=(subject.parameters, subject.parameters + grown),
            flops=(flops, flops + more // subject.examples),
        )

    def _found(self, subject: Subject) -> tuple[list[Mixture], list[tuple[str, str]]]:
        names = [name for name, _ in subject.model.named_modules() if name]
        found: dict[str, Mixture] = {}
        skipped: list[tuple[str, str]] = []
        for pattern in self.patterns:
            exact = pattern in names or not set(pattern) & set("*?")
            for path in [pattern] if exact else [n for n in names if fnmatchcase(n, pattern)]:
                if any(path.startswith(f"{known}.") for known in found):
                    continue  # a part of one that was found
                try:
                    module = find(subject.model, path)
                    visit = only_visit(subject, module, path)
                    found[path] = mixture_at(subject.model, subject.analysis, path, visit)
                except GrowthError as refused:
                    if exact:
                        raise refusal(refused, path) from None
                    skipped.append((path, str(refused)))
        if not found:
            told = "; ".join(f"'{path}': {why}" for path, why in skipped[:4])
            raise NoSuchGroup(f"{self}: no mixture of experts is called so. {told}")
        return list(found.values()), skipped

    def _tried(
        self, subject: Subject, mixtures: Sequence[Mixture], seed: int
    ) -> tuple[Plan, list[Recording | None]]:
        """The first plan with which all mixtures run and return what they did."""
        refused: list[GrowthError] = []
        for whole in (False, True):
            bare = self._plan(subject, mixtures, seed, whole=whole)
            alike = len({(m.experts, m.picked) for m in mixtures}) == 1
            wanted = _grown_shapes(subject.model, bare)
            several = from_settings(subject.model, mixtures, wanted, self.by) if alike else ()
            for edits in several:
                plan = replace(bare, attributes=(*bare.attributes, *edits), notes=(_told(edits),))
                try:
                    return plan, [tried(subject, m, plan, self.by) for m in mixtures]
                except GrowthError as found:
                    refused.append(found)
            try:
                chosen = [self._by_attributes(subject, m, bare) for m in mixtures]
            except GrowthError as found:
                refused.append(found)
                continue
            edits = tuple(e for some, _ in chosen for e in some)
            return replace(bare, attributes=(*bare.attributes, *edits)), [r for _, r in chosen]
        raise _nearest(refused)

    def _by_attributes(
        self, subject: Subject, mixture: Mixture, bare: Plan
    ) -> tuple[Edits, Recording | None]:
        refused: list[GrowthError] = []
        for edits in from_attributes(subject.model, mixture, self.by):
            plan = replace(bare, attributes=(*bare.attributes, *edits))
            try:
                return edits, tried(subject, mixture, plan, self.by)
            except GrowthError as found:
                refused.append(found)
        raise _nearest(refused)

    def _plan(
        self, subject: Subject, mixtures: Sequence[Mixture], seed: int, *, whole: bool
    ) -> Plan:
        owned = owned_tensors(subject.model)
        embeddings: dict[str, Embedding] = {}
        edits, modules, widths = list[TensorEdit](), list[ModuleEdit](), list[WidthChange]()
        for m in mixtures:
            makes, reads = f"experts of {m.path}", f"outputs of experts of {m.path}"
            e = monomial(torch.arange(m.experts).repeat(self.by), m.experts, 0)
            embeddings[makes] = e
            share = e.factor if whole else e.factor / self.by
            embeddings[reads] = replace(e, factor=share)
            places = [*m.router, *((name, 0) for name in m.stacks)]
            for name, dim in places:
                is_last = name in m.last and name in m.stacks
                leaf = Form("leaf", m.experts, reads if is_last else makes)
                role = DimEdit(dim, "read" if is_last else "follow", leaf)
                edits.append(TensorEdit(name, (role,), tuple(owned[name].shape), None, "draw"))
            modules += list(self._copies(subject.model, m, whole))
            widths.append(WidthChange(makes, m.experts, m.experts * self.by, m.experts * self.by))
        changed = [f"{e.options['of']}.{k}" for e in modules for k in e.options["kernels"]]
        changed = [n for n in changed if n in owned and (self.rule.uneven or whole)]
        changed += [e.name for e in edits if e.dims[0].role == "read"]
        plan = Plan(
            str(self), self.rule, seed, subject.fingerprint, embeddings, tuple(edits), (),
            tuple(widths),
            changed=tuple(dict.fromkeys(changed)),
            modules=tuple(modules),
        )  # fmt: skip
        plan = replace(
            plan, attributes=tuple(grown_attributes(subject.model, subject.analysis, plan))
        )
        meta = any(t.is_meta for t in owned.values())
        return plan if meta else with_measured_spreads(plan, subject.model)

    def _copies(self, model: nn.Module, m: Mixture, whole: bool) -> Iterator[ModuleEdit]:
        """In the order of the list. An expert and its copies divide their last kernels in twos."""
        for row in m.rows:
            parts = list(model.get_submodule(row).children())
            place = f"{row}.{len(parts) - 1}"
            for number in range(len(parts), len(parts) * self.by):
                turn, of = divmod(number, len(parts))
                kernels = sorted(
                    name.removeprefix(f"{row}.{of}.")
                    for name in m.last
                    if name.startswith(f"{row}.{of}.")
                )
                if not whole and turn % 2 == 0:
                    of = number - len(parts)
                elif not whole and turn < self.by - 1:
                    kernels = []  # the next one divides with it
                options = {
                    "of": f"{row}.{of}",
                    "kernels": kernels,
                    "even": not self.rule.uneven,
                    "whole": whole,
                }
                spec = {"class": path_of(type(parts[0])), "arguments": {}}
                yield ModuleEdit("insert", place, spec, "divided", options=options)
                place = f"{row}.{number}"


def _nearest(refused: Sequence[GrowthError]) -> GrowthError:
    """What came of the attempt that got furthest: it ran, and returned something else."""
    return next((e for e in refused if isinstance(e, CannotPreserve)), refused[0])


def _told(edits: Edits) -> str:
    said = ", ".join(f"{e.name} {e.old} -> {e.new}" for e in edits if "." in e.name)
    return f"{said}: the model can be built from it again"


def _grown_shapes(model: nn.Module, plan: Plan) -> dict[str, tuple[int, ...]]:
    wanted = shapes(model) | {e.name: plan.grown_shape(e) for e in plan.edits}
    for edit in plan.modules:
        row, _, last = edit.place.rpartition(".")
        copied = shapes(model.get_submodule(f"{row}.0"))
        wanted |= {f"{row}.{int(last) + 1}.{name}": shape for name, shape in copied.items()}
    return wanted


def _parameters(model: nn.Module, plan: Plan) -> dict[str, Tensor]:
    """What comes: as tensors on `meta`, by name."""
    held = {n for n, _ in model.named_parameters()}
    found: dict[str, Tensor] = {}
    for e in (e for e in plan.edits if e.name in held):
        grown, dim = plan.grown_shape(e), e.dims[0].dim
        more = [n - e.shape[d] if d == dim else n for d, n in enumerate(grown)]
        found[e.name] = torch.empty(more, device="meta")
    for i, edit in enumerate(plan.modules):
        copied = model.get_submodule(edit.place.rpartition(".")[0] + ".0")
        found |= {f"{i}.{n}": p.to("meta") for n, p in copied.named_parameters()}
    return found
