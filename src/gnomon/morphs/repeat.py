"""Repeat: copies of a residual block behind it in its stack, which start as the identity."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from gnomon.adding.additions import Added, check_runs, put
from gnomon.adding.copying import copied_module, copy_of, own_tensors
from gnomon.adding.numbering import counts, positions
from gnomon.adding.residual_branches import BranchEnd, branch_ends
from gnomon.adding.residual_stream import Block
from gnomon.analysis.flops import flops_of
from gnomon.analysis.groups import Analysis, analyse
from gnomon.editing import insertion
from gnomon.editing.settings import settings_of
from gnomon.errors import CannotPreserve, GrowthError, NoSuchGroup, Unsupported
from gnomon.morphs.places import find, input_of, only_visit
from gnomon.morphs.subject import Subject
from gnomon.planning.edit import ModuleEdit
from gnomon.planning.plan import Plan
from gnomon.planning.spec import path_of
from gnomon.recording.recorder import Visit
from gnomon.recording.tape import Recording, owned_tensors, record
from gnomon.rules import R2R


@dataclass(frozen=True)
class Repeat:
    """Copies of a residual block of a stack (an nn.ModuleList or nn.Sequential), right behind it.

    A block  y = x + b1(x) + b2(x + b1(x)) ...  with branches b of zero is the identity. Each branch
    of a copy ends in twins that cancel, so that all of the copy learns within two steps; where the
    channels cannot be twins, the gain of the branch's last norm or its last kernel is zero.
    Attributes that say at which position a block stands are corrected in copies and in the blocks
    behind, and so is the number of blocks in a configuration that the model can be built from.

    where: the path of the block. count: how many copies. twins: how many channels start alike.

    Raises ValueError if the request makes no sense for any model. Planning raises CannotPreserve
    for blocks that are not residual in this form, such as those with a norm behind the sum.
    Source: Painter, Towards a More Complete Theory of FPTs (R2DeeperR), with a block of the model's
    own as the branch.
    """

    where: str
    count: int = 1
    twins: int = 2

    def __post_init__(self) -> None:
        if not isinstance(self.where, str) or not self.where:
            raise ValueError(f"where must be the path of a block, not {self.where!r}")
        for name, least in (("count", 1), ("twins", 2)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ValueError(f"{name} must be a whole number of {least} or more, not {value!r}")

    def __str__(self) -> str:
        return f"Repeat({self.where!r}{f', count={self.count}' if self.count > 1 else ''})"

    def plan(self, subject: Subject, seed: int) -> Plan:
        """The copies to put in. Raises GrowthError where they would not be the identity."""
        module = find(subject.model, self.where)
        try:
            stack = _stack_of(subject.model, self.where, module)
            options = {
                "of": self.where,
                "branches": [dataclasses.asdict(e) for e in self._ends(subject, module)],
                "indices": positions(stack, self.where),
            }
            edits = self._edits(module, stack, options)
            copies = [_copied(subject.model, e, edits[0].place, i, seed)
                      for i, e in enumerate(edits)]  # fmt: skip
            edits, notes = _counted(subject.model, edits, copies)
            _check(subject, module, edits, copies)
        except GrowthError as refusal:
            raise type(refusal)(f"{self} cannot be done: {refusal}") from None
        size = sum(module_size(subject.model, self.where) for _ in edits)
        visit = only_visit(subject, module, self.where)
        recorded = subject.analysis.recordings[0].ops
        work = len(edits) * flops_of(recorded[visit.start : visit.end]) // subject.examples
        flops = flops_of(recorded) // subject.examples
        return Plan(
            str(self), R2R(), seed, subject.fingerprint, {}, (), (), (),
            notes=notes,
            parameters=(subject.parameters, subject.parameters + size),
            flops=(flops, flops + work),
            modules=edits,
        )  # fmt: skip

    def _ends(self, subject: Subject, module: nn.Module) -> tuple[BranchEnd, ...]:
        own = own_tensors(subject.model, self.where)
        x = input_of(only_visit(subject, module, self.where))
        analysis, recording = _seen(subject)
        visit = next(v for v in recording.visits if v.module is module)
        block = Block(subject.model, self.where, recording, visit, own)
        y = visit.output[0] if isinstance(visit.output, tuple) and visit.output else visit.output
        if not isinstance(y, Tensor) or y.shape != x.shape:
            given = f"{tuple(y.shape)}" if isinstance(y, Tensor) else type(y).__name__
            raise CannotPreserve(f"it makes {given} of {tuple(x.shape)}, so it is no identity")
        ends = branch_ends(block, analysis, self.twins)
        if not ends:
            raise CannotPreserve("it returns what it is given, so there is nothing to repeat")
        return ends

    def _edits(
        self, module: nn.Module, stack: nn.Module, options: dict[str, Any]
    ) -> tuple[ModuleEdit, ...]:
        where, _, name = self.where.rpartition(".")
        row, edits, place = list(stack._modules), list[ModuleEdit](), self.where
        for number in range(self.count):
            spec = {"class": path_of(type(module)), "arguments": {}}
            edits.append(
                ModuleEdit("insert", place, spec, "copied", twins=self.twins,
                           options=options | {"number": number})
            )  # fmt: skip
            row, name = insertion.row_with(row, name)
            place = f"{where}.{name}" if where else name
        return tuple(edits)


def module_size(model: nn.Module, path: str) -> int:
    """The parameters that a copy of a module brings: those that it does not share."""
    own = own_tensors(model, path)
    return sum(t.numel() for n, t in owned_tensors(model).items()
               if n in own and isinstance(t, nn.Parameter))  # fmt: skip


def _stack_of(model: nn.Module, where: str, module: nn.Module) -> nn.Module:
    container, _ = insertion.parent_of(model, where)
    if not isinstance(container, nn.Sequential | nn.ModuleList):
        raise NoSuchGroup(
            f"'{where}' stands in a {type(container).__name__}, not in an nn.ModuleList or "
            f"nn.Sequential that the code runs through. Use Deepen('{where}')"
        )
    if insertion.has_hook(module):
        raise Unsupported(
            f"a block was put behind '{where}' by a hook, which a copy would run too: name another"
        )
    return container


def _seen(subject: Subject) -> tuple[Analysis, Recording]:
    """The model's groups, those too that its code ties to a number, and a pass on real tensors.

    Copies keep their widths, so that what ties a width is no hindrance.
    """
    fake = subject.analysis.fake
    recordings = None if fake else subject.analysis.recordings
    analysis = analyse(subject.model, subject.calls, subject.ops, recordings)
    if not fake or any(p.is_meta for p in subject.model.parameters()):
        return analysis, subject.analysis.recordings[0]
    return analysis, record(subject.model, subject.calls[0], training=False, fake=False)


def _copied(model: nn.Module, edit: ModuleEdit, first: str, number: int, seed: int) -> nn.Module:
    if any(t.is_meta for t in owned_tensors(model).values()):
        return copy_of(model, str(edit.options["of"]))
    return copied_module(model, edit, f"{first}|{number}", seed)[0]


@contextmanager
def _inserted(
    model: nn.Module, edits: Sequence[ModuleEdit], copies: Sequence[nn.Module]
) -> Iterator[None]:
    """The model with the copies in it; put back afterwards."""
    undo = []
    try:
        for edit, module in zip(edits, copies, strict=True):
            undo.append(put(model, edit, module)[1])
        yield
    finally:
        for put_back in reversed(undo):
            put_back()


def _counted(
    model: nn.Module, edits: tuple[ModuleEdit, ...], copies: Sequence[nn.Module]
) -> tuple[tuple[ModuleEdit, ...], tuple[str, ...]]:
    """The edits with the number of blocks in the model's configuration, if it can be found."""
    stack = edits[0].place.rpartition(".")[0]
    settings = settings_of(model, stack)
    candidates = [] if settings is None else list(counts(model, settings))
    if settings is None or not candidates:
        return edits, ()
    for counted in candidates:
        tried = tuple(replace(e, options={**e.options, "counted": counted}) for e in edits)
        try:
            with _inserted(model, tried, copies):
                found = settings.describe(model)
        except Unsupported:  # the settings do not take the number
            continue
        if found:
            name = f"{counted['name']}.{counted['number']}"
            n = len(model.get_submodule(stack)._modules)
            again = "" if settings.odd else ": the model can be built from it again"
            return tried, (f"{name} {n} -> {n + len(edits)}{again}",)
    return edits, ("no number of the model's configuration describes the grown model",)


def _check(
    subject: Subject, module: nn.Module, edits: Sequence[ModuleEdit], copies: Sequence[nn.Module]
) -> None:
    """Raise Unsupported or NotProved unless the code runs the copies one behind the other."""
    added = Added(tuple((m, e, ()) for m, e in zip(copies, edits, strict=True)))
    for m in copies:
        m.train(module.training)
    with _inserted(subject.model, edits, copies):
        for training in (False, True):
            before = subject.analysis.recordings[training::2]
            runs = check_runs(
                subject.model, subject.calls, subject.analysis, added, training=training
            )
            for run, old in zip(runs, before, strict=True):
                if len(run.outputs) != len(old.outputs):
                    raise Unsupported(
                        f"the model returns {len(old.outputs)} tensors, some of them of every "
                        f"block (a key-value cache, hidden states), and {len(run.outputs)} with "
                        f"copies: give example inputs without, such as use_cache=False"
                    )
                _check_row(run, [module, *copies], edits[0].place)


def _check_row(run: Recording, row: Sequence[nn.Module], place: str) -> None:
    visits = [next(v for v in run.visits if v.module is m) for m in row]
    for before, after in itertools.pairwise(visits):
        if _first(before.output) is not _first(after.inputs):
            raise Unsupported(f"the code gives a copy something else than what '{place}' returns")
        if _names(run, before) != _names(run, after):
            raise Unsupported(
                f"the code runs a copy in another way than '{place}' itself (other operations), so "
                f"not all of it would learn: name another block of the stack"
            )
    last = _first(visits[-1].output)
    later = (t for op in run.ops[visits[-1].end :] for t in op.tensors())
    if not any(t is last for t in (*later, *run.outputs)):
        raise Unsupported(f"the code does not read what a copy behind '{place}' returns")


def _names(run: Recording, visit: Visit) -> list[str]:
    return [op.name for op in run.ops[visit.start : visit.end]]


def _first(value: object) -> object:
    return value[0] if isinstance(value, tuple) and value else value
