"""Places: where in a model something can be put, and how it is run there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gnomon.editing import insertion
from gnomon.errors import NoSuchGroup, Unsupported
from gnomon.morphs.subject import Subject
from gnomon.planning.edit import How
from gnomon.recording.recorder import Visit
from gnomon.recording.tape import Recording, record_each

_LISTED = 12
_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


@dataclass(frozen=True, eq=False)
class Place:
    """Behind one module of a model.

    after:  the module behind which the first block goes.
    siblings: the names of all children of its container; none where a hook runs the block.
    start, end: the operations of the first recording that run in `after`.
    output: what `after` returned there.
    """

    after: str
    how: How
    siblings: tuple[str, ...]
    start: int
    end: int
    output: Tensor
    notes: tuple[str, ...] = ()


def place_of(subject: Subject, after: str) -> Place:
    """The place behind a module; nothing is left changed.

    Raises NoSuchGroup if there is no such module, Unsupported if it is a container, shared, called
    more than once or never, or does not return a tensor.
    """
    module = find(subject.model, after)
    visit = only_visit(subject, module, after)
    output = visit.output[0] if isinstance(visit.output, tuple) else visit.output
    if not isinstance(output, Tensor) or not output.is_floating_point():
        kind = type(visit.output).__name__
        raise Unsupported(f"'{after}' returns {kind}, not a tensor of floats for a block to read")
    if insertion.has_hook(module):  # what was put behind it before comes first
        deeper = module._modules[insertion.CHILD]
        assert deeper is not None
        return place_of(subject, f"{after}.{insertion.CHILD}.{list(deeper._modules)[-1]}")
    container, _ = insertion.parent_of(subject.model, after)
    listed = isinstance(container, nn.Sequential | nn.ModuleList)
    if listed and _runs_through(subject, after, module):
        row = tuple(container._modules)
        return Place(after, "insert", row, visit.start, visit.end, output)
    notes = (
        (f"the code does not simply run through the container of '{after}': run behind a hook",)
        if listed
        else ()
    )
    return Place(after, "hook", (), visit.start, visit.end, output, notes)


def find(model: nn.Module, path: str) -> nn.Module:
    """The one layer of this path. Raises NoSuchGroup, Unsupported if shared or a container."""
    module = named(model, path)
    if type(module) is nn.Sequential or isinstance(module, _CONTAINERS):
        inside = [f"{path}.{name}" for name in module._modules]
        raise Unsupported(
            f"'{path}' is a container, not a layer: name the module in it after which something "
            f"is to run, such as '{inside[-1] if inside else path}'"
        )
    return module


def named(model: nn.Module, path: str) -> nn.Module:
    """The one module of this path, a container too. Raises NoSuchGroup, Unsupported if shared."""
    every = list(model.named_modules(remove_duplicate=False))
    module: nn.Module | None = dict(every).get(path)
    if module is None or module is model:
        raise NoSuchGroup(f"no module is called '{path}'. There are {_listed(every, path)}")
    shared = [name for name, m in every if m is module and name != path]
    if shared:
        raise Unsupported(
            f"'{path}' is shared: the same module is also '{shared[0]}', so what is put behind "
            f"one would run behind the other"
        )
    return module


def _listed(every: Sequence[tuple[str, nn.Module]], wanted: str) -> str:
    near = [n for n, _ in every if n and n.rpartition(".")[2] == wanted.rpartition(".")[2]]
    names = near or [name for name, module in every if name and not list(module.children())]
    return ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")


def only_visit(subject: Subject, module: nn.Module, path: str) -> Visit:
    """Where the first recording calls a module. Raises Unsupported unless each calls it once."""
    for recording in subject.analysis.recordings:
        times = sum(visit.module is module for visit in recording.visits)
        if times != 1:
            raise Unsupported(
                f"'{path}' is called {times} times in one forward pass of the example inputs"
                + ("; it must be called once" if times else ", so nothing could be proved there")
            )
    return next(v for v in subject.analysis.recordings[0].visits if v.module is module)


def input_of(visit: Visit) -> Tensor:
    """The tensor that a module was called on. Raises Unsupported if it came by keyword."""
    x = visit.inputs[0] if visit.inputs else None
    if not isinstance(x, Tensor):
        raise Unsupported("the code gives it its input by keyword: give it by position")
    return x


class _Probe(nn.Module):
    """Passes a tensor on, and remembers which."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        return x


def _runs_through(subject: Subject, after: str, module: nn.Module) -> bool:
    """Whether a module inserted behind another is run once, on its output, and nothing changes."""
    before = subject.analysis.recordings if subject.fresh else _runs(subject)
    probe = _Probe()
    _, undo = insertion.insert(subject.model, after, probe)
    try:
        runs = _runs(subject)
    except Exception:  # whatever foreign code raises: it does not run through this container
        return False
    finally:
        undo()
    return all(_passed(a, b, module, probe) for a, b in zip(runs, before, strict=True))


def _runs(subject: Subject) -> list[Recording]:
    return record_each(subject.model, subject.calls, fake=subject.analysis.fake)


def _passed(new: Recording, old: Recording, module: nn.Module, probe: nn.Module) -> bool:
    outputs = [visit.output for visit in new.visits if visit.module is module]
    passed = [visit.output for visit in new.visits if visit.module is probe]
    if len(outputs) != 1 or len(passed) != 1 or passed[0] is not outputs[0]:
        return False
    if [op.name for op in new.ops] != [op.name for op in old.ops]:
        return False
    return all(_same(a, b) for a, b in zip(new.outputs, old.outputs, strict=True))


def _same(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.is_meta or isinstance(a, torch._subclasses.FakeTensor):
        return a.shape == b.shape
    return torch.equal(a.nan_to_num(), b.nan_to_num())
