"""Deepen: new layers behind a module, which start at zero, as the identity, or at random."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.modules.batchnorm import _BatchNorm

from gnomon.activations import PBatchNorm
from gnomon.adding import templates
from gnomon.adding.making import check_identity, make, started
from gnomon.adding.neighbour import neighbour, range_of
from gnomon.adding.trial import Trial
from gnomon.blocks import Residual
from gnomon.errors import CannotPreserve, GrowthError, Unsupported
from gnomon.morphs.places import Place, place_of
from gnomon.morphs.rows import Rows, Seat
from gnomon.morphs.subject import Subject, size
from gnomon.planning.edit import ModuleEdit, Start
from gnomon.planning.plan import Plan
from gnomon.planning.spec import alike, describe, factories_needed, unchecked
from gnomon.rules import R2R, Net2Net, RandPad, Rule
from gnomon.wrapped import refuse_wrapped

Template = nn.Module | Callable[[], nn.Module]
_STARTS: dict[type[Rule], Start] = {R2R: "zero", Net2Net: "identity", RandPad: "random"}


@dataclass(frozen=True)
class Deepen:
    """New layers behind the module that `after` names, anywhere in the model, or behind several.

    after: the path of a module, or several: one growth, with one plan and one proof.
    rule:  R2R() inserts a residual block x + z(x) whose branch z starts at zero (R2DeeperR);
           Net2Net() a layer that starts as the identity (Net2DeeperNet); RandPad() a block with
           random weights, which changes the function: the baseline.
    block: a module to copy, or a function that makes one; by default one like the layer before.
           With R2R() and RandPad() it is the branch z, with Net2Net() the layer itself.
    count: how many, one behind the other.
    twins: with R2R(): how many hidden channels start alike; two or more.

    Raises ValueError if the request makes no sense for any model.
    """

    after: str | Sequence[str]
    rule: Rule = field(default_factory=R2R)
    block: Template | None = None
    count: int = 1
    twins: int = 2

    def __post_init__(self) -> None:
        if not isinstance(self.after, str):
            object.__setattr__(self, "after", _several(self.after))
        if not all(isinstance(path, str) and path for path in self._places):
            raise ValueError(f"after must be the path of a module, or several, not {self.after!r}")
        twice = [path for i, path in enumerate(self._places) if path in self._places[:i]]
        if twice:
            raise ValueError(
                f"after names '{twice[0]}' twice: count= puts several blocks behind it"
            )
        if type(self.rule) not in _STARTS:
            raise ValueError(
                f"Deepen takes R2R(), Net2Net() or RandPad(), not {self.rule!r}: the other rules "
                f"say how channels are added, not how layers are"
            )
        for name, least in (("count", 1), ("twins", 2)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be a whole number of {least} or more, not {value!r}")
        if self.block is not None and not callable(self.block):
            raise ValueError(f"block must be a module or a function that makes one: {self.block!r}")

    def __str__(self) -> str:
        own = "" if self.block is None else f", block={_name(self.block)}"
        count = f", count={self.count}" if self.count > 1 else ""
        return f"Deepen({self.after!r}, rule={self.rule!r}{own}{count})"

    @property
    def _places(self) -> tuple[str, ...]:
        return (self.after,) if isinstance(self.after, str) else tuple(self.after)

    def plan(self, subject: Subject, seed: int) -> Plan:
        """The modules to put in. Raises GrowthError where that cannot be."""
        places = self._in_order(subject)
        rows, trials = Rows(), list[Trial]()
        for place in places:
            with self._named(place):
                first, pattern = self._edit(subject, place)
                seat = rows.put(place, first, self.count)
                trials.append(self._tried(subject, first, seat, seed, place.output))
                assert pattern is None or alike(pattern, trials[-1].module)
        costs = subject.costs_of(
            self.count * sum(size(trial.module) for trial in trials),
            self.count * sum(trial.flops for trial in trials),
        )
        return Plan(
            str(self), self.rule, seed, subject.fingerprint, {}, (), (), (),
            notes=self._notes(rows.edits, places),
            parameters=costs.parameters,
            flops=costs.flops,
            modules=tuple(rows.edits),
        )  # fmt: skip

    def _in_order(self, subject: Subject) -> list[Place]:
        """The places in the order in which the code runs there."""
        places = [place_of(subject, after) for after in self._places]
        for i, place in enumerate(places):
            if place.after in (other.after for other in places[:i]):
                raise Unsupported(
                    f"{self} cannot be done: '{self._places[i]}' is the place behind "
                    f"'{place.after}', which it names already. Name it once, with count="
                )
        return sorted(places, key=lambda place: place.end)

    @contextlib.contextmanager
    def _named(self, place: Place) -> Iterator[None]:
        """Say of a refusal which place of several it is about."""
        where = "" if isinstance(self.after, str) else f" behind '{place.after}'"
        try:
            yield
        except GrowthError as refusal:
            raise type(refusal)(f"{self} cannot be done{where}: {refusal}") from None

    def _edit(self, subject: Subject, place: Place) -> tuple[ModuleEdit, nn.Module | None]:
        """What is put in first, and what it is to be like if it is not a copy of that.

        The following ones are alike.
        """
        std, template = None, None
        if self.block is None:
            module, std = self._like_neighbour(subject, place)
            spec = unchecked(module)
        else:
            block = _made(self.block)
            refuse_wrapped(block)
            block = block.to(device=subject.device, dtype=place.output.dtype)
            template = module = self._wrapped(block)
            spec = describe(module)
        kind = _STARTS[type(self.rule)]
        passed = {id(m.norm) for m in module.modules() if isinstance(m, PBatchNorm) and m.holds(1)}
        norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and id(m) not in passed]
        if kind == "identity" and any(not norm.affine for norm in norms):
            raise CannotPreserve("a BatchNorm without affine=True cannot be the identity")
        edit = ModuleEdit(
            place.how, place.after, spec, kind,
            shape=tuple(place.output.shape),
            std=std,
            twins=self.twins,
            expected=kind == "identity" and bool(norms),
            template=template,
        )  # fmt: skip
        return edit, module if template is None else None

    def _like_neighbour(self, subject: Subject, place: Place) -> tuple[nn.Module, float | None]:
        recording = subject.analysis.recordings[0]
        like = neighbour(subject.analysis, recording, place.end, place.output, inside=place.start)
        module: nn.Module
        with torch.random.fork_rng(devices=[]):  # constructors draw, though it is drawn again
            if isinstance(self.rule, Net2Net):
                where = range_of(recording, place.end, place.output)
                return templates.identity(like, where).to(subject.device), None
            module = templates.residual(like).to(subject.device)
        return module, self._std(like.weight, module)

    def _std(self, weight: Tensor, module: nn.Module) -> float:
        """The spread of new kernels: that of the neighbour's, or He's."""
        unknown = weight.is_meta or isinstance(weight, FakeTensor)  # computed, on a large model
        own = 0.0 if unknown else float(weight.detach().double().std(correction=0))
        if own != own or own == float("inf"):
            raise Unsupported("the layer before it holds NaN or infinite weights")
        he = (2 / max(1, next(p for p in module.parameters() if p.dim() > 1)[0].numel())) ** 0.5
        return he if self.rule.init == "he" or own == 0 else own

    def _wrapped(self, module: nn.Module) -> nn.Module:
        return module if isinstance(self.rule, Net2Net) else Residual(module)

    def _tried(
        self, subject: Subject, edit: ModuleEdit, seat: Seat, seed: int, arriving: Tensor
    ) -> Trial:
        """Make the block once, to learn now whether it fits and can start as it should."""
        module = make(edit, seat.key, seed, {})
        trial = Trial(module, edit)
        trial.check_shape()
        if not any(p.is_meta for p in module.parameters()):
            subject.tried.keep(*seat, seed, module, started(trial, seat.key, seed))
            if not subject.fresh or subject.analysis.fake:  # else it is seen where it stands
                trial.prove()
            if edit.start == "identity" and not isinstance(arriving, FakeTensor):
                check_identity(module, edit, arriving)
        return trial

    def _notes(self, edits: Sequence[ModuleEdit], places: Sequence[Place]) -> tuple[str, ...]:
        notes = [note for place in places for note in place.notes]
        if any(edit.expected for edit in edits):
            notes.append(
                "BatchNorm of the new layers is set from the example inputs: other batches are "
                "normalised with their own statistics in train mode. Exact: rule=R2R(), or "
                "block= a layer without norm"
            )
        if any(factories_needed(edit.spec) for edit in edits):
            notes.append("a file cannot express this block: gn.load will need blocks=")
        return tuple(notes)


def _several(after: object) -> tuple[Any, ...]:
    if not isinstance(after, Iterable) or not (found := tuple(after)):
        raise ValueError(f"after must be the path of a module, or several, not {after!r}")
    return found


def _made(block: Template) -> nn.Module:
    if isinstance(block, nn.Module):
        return copy.deepcopy(block)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            made = block()
        except Exception as fault:
            raise Unsupported(f"block() failed ({type(fault).__name__}: {fault})") from fault
    if not isinstance(made, nn.Module):
        raise Unsupported(f"block() made a {type(made).__name__}, not a torch.nn.Module")
    return made


def _name(block: Template) -> str:
    return type(block).__name__ if isinstance(block, nn.Module) else getattr(block, "__name__", "")
