"""Upcycle: a feed-forward layer as a mixture of experts, all of which start as that layer."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from gnomon.adding.mixtures import last_of
from gnomon.analysis.flops import flops_of
from gnomon.blocks import Upcycled
from gnomon.errors import CannotPreserve, GrowthError, NoSuchGroup, Unsupported
from gnomon.morphs.factor import refuse_tied
from gnomon.morphs.places import input_of, named, only_visit
from gnomon.morphs.subject import Subject
from gnomon.planning.edit import ModuleEdit
from gnomon.planning.plan import Plan
from gnomon.planning.spec import path_of
from gnomon.recording.recorder import Visit
from gnomon.recording.tape import owned_tensors, record
from gnomon.rules import Net2Net


@dataclass(frozen=True)
class Upcycle:
    """A layer that acts on each row alone as `experts` copies, `top_k` of which run for a row.

        y = f(x)    ->    y = sum of w_e f_e(x)    with  f_e = f  and shares w_e that add up to 1

    That holds for every router, so its weights are drawn. Equal experts give it no gradient until
    they have parted, after the first step. With even numbers of experts and of top_k they come in
    twos instead, of equal scores and with last kernels V + Z and V - Z: they are picked together,
    their outputs add up to 2 f, and the router learns from the first step on.

    where: the path of the layer, or a glob or list of these. It is replaced by a
           `gnomon.blocks.Upcycled`, whose first expert is the layer itself; what is called
           "mlp.up.weight" then is "mlp.experts.0.up.weight".

    Which experts a router asks for is left to its draw: add a loss that balances them, as usual.
    Raises ValueError if the request makes no sense for any layer. Planning raises CannotPreserve
    for layers that mix rows, such as attention, convolutions, and BatchNorm in train mode.
    Source: Komatsuzaki et al. 2023, Sparse Upcycling, with shares that add up to 1; the experts in
    twos are Painter's zero-sum pairs.
    """

    where: str | Sequence[str]
    experts: int = 4
    top_k: int = 2

    def __post_init__(self) -> None:
        named = isinstance(self.where, str | Sequence) and len(self.patterns) > 0
        if not named or not all(isinstance(p, str) and p for p in self.patterns):
            raise ValueError(f"where must name modules, not {self.where!r}")
        if type(self.experts) is not int or self.experts < 2:
            raise ValueError(f"experts must be a whole number of 2 or more, not {self.experts!r}")
        if type(self.top_k) is not int or not 2 <= self.top_k <= self.experts:
            raise ValueError(
                f"top_k must be 2 to {self.experts}, not {self.top_k!r}: a single share is always "
                f"1, and a router of single shares would never learn"
            )

    @property
    def patterns(self) -> tuple[str, ...]:
        """`where` as a tuple."""
        return (self.where,) if isinstance(self.where, str) else tuple(self.where)

    def __str__(self) -> str:
        return f"Upcycle({self.where!r}, experts={self.experts}, top_k={self.top_k})"

    def plan(self, subject: Subject, seed: int) -> Plan:
        """The mixtures to put in. Raises GrowthError where they would not be the layer."""
        paths = self._paths(subject.model)
        try:
            edits = tuple(self._edit(subject, path) for path in paths)
        except GrowthError as refusal:
            raise type(refusal)(f"{self} cannot be done: {refusal}") from None
        size = sum(
            (self.experts - 1) * sum(p.numel() for p in subject.model.get_submodule(n).parameters())
            + self.experts * int(edit.options["width"])
            for n, edit in zip(paths, edits, strict=True)
        )
        recorded = subject.analysis.recordings[0].ops
        flops, work = flops_of(recorded), 0
        for path, edit in zip(paths, edits, strict=True):
            visit = only_visit(subject, subject.model.get_submodule(path), path)
            rows = input_of(visit).numel() // int(edit.options["width"])
            work += (self.top_k - 1) * flops_of(recorded[visit.start : visit.end])
            work += 2 * rows * int(edit.options["width"]) * self.experts
        changed = [f"{e.place}.{k}" for e in edits for k in e.options["kernels"]]
        return Plan(
            str(self), Net2Net(), seed, subject.fingerprint, {}, (), (), (),
            changed=tuple(changed),
            notes=tuple(dict.fromkeys(_note(edit) for edit in edits)),
            parameters=(subject.parameters, subject.parameters + size),
            flops=(flops // subject.examples, (flops + work) // subject.examples),
            modules=edits,
        )  # fmt: skip

    def _paths(self, model: nn.Module) -> list[str]:
        names = [name for name, _ in model.named_modules() if name]
        found: list[str] = []
        for pattern in self.patterns:
            fit = [n for n in names if fnmatchcase(n, pattern.replace("[", "[[]"))]
            if not fit and set(pattern) & set("*?"):
                raise NoSuchGroup(f"{self}: no module is called '{pattern}'")
            found += fit or [pattern]
        return list(dict.fromkeys(found))

    def _edit(self, subject: Subject, path: str) -> ModuleEdit:
        module = named(subject.model, path)
        visit = only_visit(subject, module, path)
        x, y = input_of(visit), visit.output
        if not isinstance(y, Tensor) or y.shape[:-1] != x.shape[:-1] or not x.dim():
            raise Unsupported(f"'{path}' does not make one tensor of as many rows as it is given")
        if len(visit.inputs) > 1 or any(isinstance(m, Upcycled) for m in module.modules()):
            what = "takes more than one input" if len(visit.inputs) > 1 else "is a mixture already"
            raise Unsupported(f"'{path}' {what}")
        if not any(p.is_floating_point() for p in module.parameters()):
            raise Unsupported(f"'{path}' has no weights of which experts could differ")
        refuse_tied(subject, module, path)
        kernels: list[str] = []
        if self.experts % 2 == 0 and self.top_k % 2 == 0:
            kernels = _last(subject, visit, module)
        if not any(t.is_meta for t in owned_tensors(module).values()):
            rows = _rows(x)
            _check_rows(module, path, rows, x)
            kernels = kernels if kernels and _adds_up(module, kernels, rows) else []
        options = {
            "experts": self.experts,
            "top_k": self.top_k,
            "width": x.shape[-1],
            "kernels": kernels,
        }
        spec = {"class": path_of(Upcycled), "arguments": {}}
        return ModuleEdit("replace", path, spec, "upcycled", shape=tuple(x.shape), options=options)


def _note(edit: ModuleEdit) -> str:
    if edit.options["kernels"]:
        return "experts come in twos of equal scores: routers learn from the first step on"
    return "equal experts give routers no gradient in the first step; they learn from the second on"


def _last(subject: Subject, visit: Visit, module: nn.Module) -> list[str]:
    """The tensors of a layer that write what it returns, by their names in it."""
    names = {id(t): name for name, t in owned_tensors(subject.model).items()}
    own = {names[id(t)]: name for name, t in owned_tensors(module).items()}
    return sorted(own[name] for name in last_of(subject.analysis, visit) if name in own)


def _rows(x: Tensor) -> Tensor:
    """(rows, width): those that were recorded, and some more."""
    draw = torch.Generator().manual_seed(0)
    more = torch.randn(9, x.shape[-1], generator=draw, dtype=torch.float64)
    dtype = x.dtype
    if isinstance(x, FakeTensor) or x.is_meta:
        return more.to(dtype)
    x = x.detach().reshape(-1, x.shape[-1])
    return torch.cat([x[:512], more.to(x)])


def _run(module: nn.Module, x: Tensor, training: bool = False) -> Tensor:
    return record(module, ((x,), {}), training=training, fake=False, keep=False).outputs[0]


def _check_rows(module: nn.Module, path: str, rows: Tensor, x: Tensor) -> None:
    """Raise CannotPreserve unless each row is worked on alone, in both modes."""
    half = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[::2]
    for training in (False, True):
        try:
            whole = _run(module, rows, training)
            some = _run(module, rows[half.to(rows.device)], training)
            leading = [1] * (x.dim() - 3) + [2, 4] if x.dim() > 2 else [8]
            block = _run(module, rows[:8].reshape(*leading, -1), training)
        except Exception as fault:  # whatever foreign code raises
            raise Unsupported(
                f"'{path}' does not run on rows alone ({type(fault).__name__}: {fault})"
            ) from fault
        same = _near(whole[half.to(whole.device)], some)
        if not same or not _near(whole[:8], block.reshape(8, -1)):
            raise CannotPreserve(
                f"'{path}' mixes rows{' in train mode' if training else ''}, so it gives others to "
                f"experts that see only some of them: name a layer that works on each row alone"
            )


def _near(a: Tensor, b: Tensor) -> bool:
    off = max(torch.finfo(a.dtype).eps, torch.finfo(torch.float32).eps) ** 0.5
    return a.shape == b.shape and bool(((a - b).abs() <= off * a.abs().max()).all())


def _adds_up(module: nn.Module, kernels: Sequence[str], rows: Tensor) -> bool:
    """Whether two copies that divide these tensors make twice what the layer does."""
    draw = torch.Generator().manual_seed(0)
    one, other = copy.deepcopy(module), copy.deepcopy(module)
    mine, theirs = owned_tensors(one), owned_tensors(other)
    with torch.no_grad():
        for name in kernels:
            mask = torch.randint(0, 2, mine[name].shape, generator=draw).to(mine[name])
            mine[name].mul_(2 * mask)
            theirs[name].mul_(2 * (1 - mask))
    return _near(2 * _run(module, rows), _run(one, rows) + _run(other, rows))
