"""Grow a copy of one mixture of experts, to see whether it then runs and returns the same."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from gnomon.adding.additions import put
from gnomon.adding.dividing import divided_module
from gnomon.adding.mixtures import Mixture, seen_by
from gnomon.editing.surgery import Surgery, operate
from gnomon.errors import CannotPreserve, GrowthError, Unsupported
from gnomon.morphs.places import input_of, only_visit
from gnomon.morphs.subject import Subject
from gnomon.planning.edit import AttributeEdit
from gnomon.planning.plan import Plan
from gnomon.recording.tape import Recording, owned_tensors, record


def tried(subject: Subject, m: Mixture, plan: Plan, by: int) -> Recording | None:
    """Grow a copy of one mixture and run both. None on `meta`, where nothing can be compared.

    Raises Unsupported or CannotPreserve.
    """
    module = subject.model.get_submodule(m.path)
    if any(t.is_meta for t in owned_tensors(module).values()):
        return None
    x = input_of(only_visit(subject, module, m.path)).detach()
    if isinstance(x, FakeTensor):
        x = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x.dtype)
    old = copy.deepcopy(module)
    before = _run(old, x)
    try:
        _grow(old, m.path, plan)
        after = _run(old, x)
    except GrowthError:
        raise
    except Exception as fault:  # whatever foreign code raises
        raise Unsupported(
            f"with {m.experts * by} experts '{m.path}' does not run ({type(fault).__name__}: "
            f"{fault}): its code may hold the number {m.experts} or {m.picked} where none can "
            f"change it, such as topk({m.picked}). Keep it in an attribute"
        ) from fault
    seen = (m.picked * by, m.experts * by)
    if seen not in seen_by(after):
        raise Unsupported(
            f"'{m.path}' picks {m.picked} experts by a number that is found in no attribute: keep "
            f"it in one, as in topk(self.top_k)"
        )
    for a, b in zip(before.outputs, after.outputs, strict=False):
        moved = float((a.double() - b.double()).abs().max()) if a.shape == b.shape else 0.0
        if a.shape == b.shape and moved > _off(x.dtype) * float(a.abs().max()):
            raise CannotPreserve(
                f"the shares of the copies in '{m.path}' do not add up to those of its experts (it "
                f"moved by {moved:.1e}): they do behind a softmax over all experts, behind a "
                f"division by their sum, and where each is a number of its own expert alone"
            )
    return after


def _off(dtype: torch.dtype) -> float:
    """What shares that do not add up differ by, at the least; scores may be taken in float32."""
    eps: float = max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)
    return math.sqrt(eps)


def _run(module: nn.Module, x: Tensor) -> Recording:
    return record(module, ((x,), {}), training=False, fake=False)


def _grow(module: nn.Module, path: str, plan: Plan) -> None:
    """Carry out what a plan does to one module, on that module alone."""

    def own(name: str) -> bool:
        return name == path or name.startswith(f"{path}.")

    def inner(name: str) -> str:
        return name.removeprefix(path).removeprefix(".")

    surgery = Surgery()
    for i, edit in enumerate(e for e in plan.modules if own(e.place)):
        options = {**edit.options, "of": inner(str(edit.options["of"]))}
        moved = replace(edit, place=inner(edit.place), options=options)
        put(module, moved, divided_module(module, moved, str(i), plan.seed, surgery))
    edits = tuple(replace(e, name=inner(e.name)) for e in plan.edits if own(e.name))
    said = tuple(replace(a, path=inner(a.path)) for a in plan.attributes if own(a.path))
    said += tuple(_held(module, plan, path))
    operate(module, replace(plan, edits=edits, attributes=said, modules=()), (), surgery)


def _held(module: nn.Module, plan: Plan, path: str) -> Iterator[AttributeEdit]:
    """The edits of settings that lie outside, on the copies of them that a mixture holds."""
    for a in plan.attributes:
        _, dot, number = a.name.partition(".")
        if not dot or a.path == path or a.path.startswith(f"{path}."):
            continue
        for inner, part in module.named_modules():
            for key, value in vars(part).items():
                if hasattr(value, "__dict__") and vars(value).get(number) == a.old:
                    yield AttributeEdit(inner, f"{key}.{number}", a.old, a.new)
                    return
