"""Mixtures of experts as their tape shows them: a router, a top-k, and experts of equal shapes.

Nothing depends on names. The experts' axis is the one that `topk` picks from; what makes it is the
router. Experts are rows of stacks, tensors of which whole slices along the first dimension are
picked or multiplied, or the modules of an nn.ModuleList.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from gnomon.analysis.groups import Analysis
from gnomon.axes import Axis, resolve
from gnomon.editing.settings import shapes
from gnomon.errors import CannotPreserve, GrowthError, NoSuchGroup, Unsupported
from gnomon.ops.context import Op
from gnomon.recording.recorder import Visit
from gnomon.recording.tape import Recording, owned_tensors


@dataclass(frozen=True)
class Mixture:
    """Where the experts of one mixture are.

    path:    the module that holds router and experts.
    experts: how many there are; picked: how many of them run for a token.
    router:  what makes the experts' axis: names of tensors, with the dimension.
    stacks:  tensors with one slice per expert along their first dimension.
    rows:    paths of the nn.ModuleLists with one module per expert.
    last:    of stacks, and in the modules of rows, the tensors that write what the mixture returns.
    """

    path: str
    experts: int
    picked: int
    router: tuple[tuple[str, int], ...]
    stacks: tuple[str, ...]
    rows: tuple[str, ...]
    last: frozenset[str]


def mixture_at(model: nn.Module, analysis: Analysis, path: str, visit: Visit) -> Mixture:
    """The mixture that a module is. Raises GrowthError if it is none, or not of a known kind."""
    ops = analysis.recordings[0].ops[visit.start : visit.end]
    op = _pick(ops)
    x, picked = op.args[0], int(op.args[1])
    axis = resolve(analysis.context.axes(x)[op.argument(2, "dim", -1)])
    experts = axis.size
    if axis.kind is not None:
        raise CannotPreserve("its experts are in groups, among which copies would be torn apart")
    _refuse_ties(op, picked)
    router = _router(analysis, axis, path)
    module = model.get_submodule(path)
    own = {f"{path}.{name}": t for name, t in owned_tensors(module).items()}
    stacks = _stacks(analysis, ops, own, experts)
    router = tuple((name, dim) for name, dim in router if name not in stacks)
    rows = tuple(f"{path}.{inner}" for inner in _rows(module, experts))
    if not stacks and not rows:
        raise Unsupported(
            f"neither a parameter nor an nn.ModuleList in it holds {experts} experts of one shape"
        )
    return Mixture(
        path, experts, picked, router, stacks, rows, last_of(analysis, visit) & own.keys()
    )


def picks(ops: Sequence[Op]) -> list[Op]:
    """The operations that pick some, but not all, of an axis by their size."""
    return [op for op in ops if op.name == "topk" and op.args[1] < _size(op)]


def seen_by(run: Recording) -> list[tuple[int, int]]:
    """How many each top-k picks, and of how many."""
    return [(int(op.args[1]), _size(op)) for op in picks(run.ops)]


def _size(op: Op) -> int:
    return int(op.args[0].shape[op.argument(2, "dim", -1)])


def _pick(ops: Sequence[Op]) -> Op:
    several = picks(ops)
    if not several:
        raise NoSuchGroup("no operation in it picks some of several experts by topk")
    found = [op for op in several if len(several) == 1 or _matters(ops, op)]
    if len(found) != 1:
        raise CannotPreserve(
            "it picks more than once (groups of experts, then experts): copies change what a group "
            "is worth"
        )
    return found[0]


def _matters(ops: Sequence[Op], op: Op) -> bool:
    """Whether what an operation picks reaches the end of the tape.

    Of one group of experts that is all there is, the best one is picked whatever it is worth.
    """
    derived = {id(y) for y in op.outputs}
    for later in ops[list(ops).index(op) + 1 :]:
        if later.name.endswith("_like"):  # of the same shape alone
            continue
        if any(id(x) in derived for x in later.tensors()):
            only = later.name == "topk" and _size(later) == 1
            derived |= {id(y) for y in (later.outputs[:1] if only else later.outputs)}
    return any(id(y) in derived for y in ops[-1].outputs) or op is ops[-1]


def _refuse_ties(op: Op, picked: int) -> None:
    """Of two experts that tie, chance decides which one runs, and may decide otherwise later."""
    x, dim = op.args[0].detach(), op.argument(2, "dim", -1)
    if isinstance(x, FakeTensor) or x.is_meta:
        return
    top = x.float().topk(picked + 1, dim).values.movedim(dim, -1)
    if bool((top[..., -1] == top[..., -2]).any()):
        raise CannotPreserve(
            "two experts get equal scores from its router, so that chance decides which one runs: "
            "train or draw the router first (float32 tells more apart than bfloat16)"
        )


def _router(analysis: Analysis, axis: Axis, path: str) -> tuple[tuple[str, int], ...]:
    t = analysis.context
    found = [(n, d) for n, dims in t.dims.items() for d, a in enumerate(dims) if resolve(a) is axis]
    outside = [name for name, _ in found if not name.startswith(f"{path}.")]
    if outside:
        raise Unsupported(f"'{outside[0]}' belongs to its router too, but lies outside of it")
    reading = {u.name for u in t.uses if u.role == "read" and resolve(u.axis) is axis}
    if not found or reading & {name for name, _ in found}:
        what = f"'{min(reading)}' mixes" if reading else "no parameter makes"
        raise CannotPreserve(f"{what} the scores of its experts")
    return tuple(found)


def _stacks(
    analysis: Analysis, ops: Sequence[Op], own: dict[str, Tensor], experts: int
) -> tuple[str, ...]:
    """Tensors that are taken slice by slice, and those that meet such slices entry by entry."""
    dims = analysis.context.dims
    found = {n for n, t in own.items() if n in dims and _is_stack(ops, t, experts)}
    firsts = {resolve(dims[n][0]) for n in found}
    return tuple(n for n in own if n in dims and dims[n] and resolve(dims[n][0]) in firsts)


# Views that keep the first dimension where it is, if they keep its size.
_VIEWS = frozenset(
    "detach alias clone _to_copy contiguous view _unsafe_view reshape unsqueeze".split()
)


def _is_stack(ops: Sequence[Op], tensor: Tensor, experts: int) -> bool:
    """Whether all that the code does with a tensor is to take slices along its first dimension."""
    if not tensor.is_floating_point() or not tensor.dim() or tensor.shape[0] != experts:
        return False
    views, used = {id(tensor)}, False
    for op in ops:
        held = [i for i, a in enumerate(op.args) if isinstance(a, Tensor) and id(a) in views]
        if not held:
            continue
        if _is_view(op):
            views.add(id(op.outputs[0]))
        elif not _takes_slices(op, held):
            return False
        used = True
    return used


def _is_view(op: Op) -> bool:
    x, y = op.args[0], op.outputs[0]
    if op.name in ("transpose", "permute", "movedim"):
        where = [n % x.dim() for n in (op.args[1] if op.name == "permute" else op.args[1:3])]
        return where[0] == 0 if op.name == "permute" else 0 not in where
    return op.name in _VIEWS and op.shapes[0][:1] == tuple(x.shape[:1]) == tuple(y.shape[:1])


def _takes_slices(op: Op, held: Sequence[int]) -> bool:
    if op.name in ("bmm", "baddbmm"):
        return True
    if op.name == "_grouped_mm":
        return held == [1]
    if op.name in ("select", "index_select", "unbind"):
        return held == [0] and op.argument(1, "dim", 0) == 0
    if op.name != "index" or held != [0]:
        return False
    first = op.args[1][0]
    return first is not None and first.dtype in (torch.int64, torch.int32)


def _rows(module: nn.Module, experts: int) -> Iterator[str]:
    outer: list[str] = []
    for name, part in module.named_modules():
        inside = any(name.startswith(f"{path}.") for path in outer)
        if inside or not isinstance(part, nn.ModuleList) or len(part) != experts:
            continue
        first = shapes(part[0])
        if first and all(type(m) is type(part[0]) and shapes(m) == first for m in part):
            outer.append(name)
            yield name


def last_of(analysis: Analysis, visit: Visit) -> frozenset[str]:
    """What writes the channels that a module returns, in it or elsewhere."""
    y = visit.output[0] if isinstance(visit.output, tuple) and visit.output else visit.output
    if not isinstance(y, Tensor):
        return frozenset()
    leaf = resolve(analysis.context.axes(y)[-1])
    slots = [s for g in analysis.groups if g.leaf is leaf for s in g.slots]
    return frozenset(s.name for s in slots if s.role == "write")


def refusal(error: GrowthError, path: str) -> GrowthError:
    """An error with the module that it is about."""
    return type(error)(f"'{path}' is no mixture whose experts can be copied: {error}")
