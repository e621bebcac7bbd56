"""Students that hold their teacher's own parameters, with new blocks as parameters of their own."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gnomon.embedding import Embedding
from gnomon.errors import CannotPreserve, GrowthError, Unsupported
from gnomon.grower import Grower, Morph
from gnomon.growth import on_cpu
from gnomon.ops.context import OpRule
from gnomon.planning.fill import in_format_of
from gnomon.planning.plan import Plan
from gnomon.proof.verify import Answers, accept, answers, check_comparable, compare, varied
from gnomon.recording.snapshot import unchanged
from gnomon.recording.tape import Call, calls_of, owned_tensors
from gnomon.rules import Net2Net
from gnomon.shared import Blocks, Step
from gnomon.wrapped import refuse_wrapped


@dataclass(frozen=True)
class _Source:
    """What a parameter is made of: one that is shared, and the blocks behind it."""

    old: nn.Parameter
    steps: tuple[Step, ...] = ()

    @property
    def parts(self) -> tuple[nn.Parameter, ...]:
        """All that is trained."""
        return (self.old, *(step.block for step in self.steps))

    @property
    def key(self) -> tuple[int, ...]:
        """Equal for what is tied."""
        return tuple(map(id, self.parts))


_Places = Mapping[int, Tensor]  # per grown dimension, where the old channels stand


def share(
    teacher: nn.Module,
    morph: Morph | Sequence[Morph],
    example_inputs: object,
    *,
    seed: int = 0,
    ops: Mapping[str, OpRule] | None = None,
) -> nn.Module:
    """A grown student that computes what the teacher does, with the teacher's own parameters.

    What does not grow is the teacher's `Parameter` itself; what grows is computed from it and from
    new blocks (see `Blocks`), frozen if it is frozen. So a step of either model's optimizer moves
    the other, and a block has optimizer state of its own. Buffers are the student's. The teacher is
    not touched. `separate(student)` and `copy.deepcopy(student)` share nothing; in place grows only
    the former.

    morph: one, or several in turn; the i-th draws with `seed + i`.
    Raises CannotPreserve where the rule changes old weights or the function; what Grower raises.
    """
    refuse_wrapped(teacher)
    if any(t.is_meta for t in owned_tensors(teacher).values()):
        raise Unsupported("a teacher on 'meta' has no weights to share: load its weights first")
    morphs = list(morph) if isinstance(morph, Sequence) else [morph]
    if not morphs:
        raise ValueError("share() takes a morph such as Widen(...), or several; none is given")
    with torch.inference_mode(False), unchanged(teacher):
        plain, sources = _plain_copy(teacher)
        grower, calls = Grower(plain, example_inputs, ops=ops), varied(calls_of(example_inputs))
        before = answers(plain, calls)
        check_comparable(before)
        plan, sources = _grow(grower, morphs, seed, sources)
        student = _student(plain, sources)
        _refuse_lost(teacher, student)
        _prove(student, plain, calls, before, plan)
    return student


def separate(student: nn.Module) -> nn.Module:
    """An independent plain model: as if grown in place, with nothing shared.

    Classes, names and their order are those of the teacher. Gradients are not carried.
    """
    with torch.inference_mode(False), unchanged(student):
        return _plain_copy(student)[0]


def _plain_copy(model: nn.Module) -> tuple[nn.Module, dict[nn.Parameter, _Source]]:
    """A copy without blocks, and what each of its parameters is made of in the model."""
    memo: dict[int, object] = {}
    try:
        plain = copy.deepcopy(model, memo)
    except Exception as fault:  # whatever a foreign __deepcopy__ raises
        raise Unsupported(
            f"{type(model).__name__} cannot be copied ({fault}): drop what an earlier forward left "
            f"on it (run it once under torch.no_grad())"
        ) from None
    _refuse_common(model, plain)
    # Where a module copies its parameters in a way of its own, they have no home.
    home = {id(memo[id(p)]): p for p in model.parameters() if id(p) in memo}
    sources: dict[nn.Parameter, _Source] = {}
    made: dict[tuple[int, ...], nn.Parameter] = {}
    for module in list(plain.modules()):
        for name, blocks, old in _take_off(module):
            here = _Source(old, blocks.steps)
            if here.key not in made:
                whole = nn.Parameter(in_format_of(old, blocks(old).detach()))
                whole.requires_grad = any(part.requires_grad for part in here.parts)
                made[here.key] = whole
                if all(id(part) in home for part in here.parts):
                    steps = (replace(step, block=home[id(step.block)]) for step in here.steps)
                    sources[whole] = _Source(home[id(old)], tuple(steps))
            module._parameters[name] = made[here.key]
            order = [*blocks.siblings, *module._parameters]
            own = {n: module._parameters[n] for n in order if n in module._parameters}
            module._parameters = own
    for parameter in plain.parameters():
        if id(parameter) in home:
            sources[parameter] = _Source(home[id(parameter)])
    return plain, sources


def _take_off(module: nn.Module) -> list[tuple[str, Blocks, nn.Parameter]]:
    """Remove the blocks of a module; the caller puts the parameters back."""
    found = []
    for name, ways in _parametrizations(module):
        blocks = [way for way in ways if isinstance(way, Blocks)]
        if blocks and "1" in ways._modules:
            raise Unsupported(
                f"'{name}' of a {type(module).__name__} is shared and has another parametrization "
                f"besides: remove that first (torch.nn.utils.parametrize.remove_parametrizations)"
            )
        found += [(name, block, ways._parameters["original"]) for block in blocks]
    if found:
        _give_own_class(module)
    for name, _, _ in found:
        parametrize.remove_parametrizations(module, name, leave_parametrized=False)
    return [(name, block, old) for name, block, old in found if old is not None]


def _parametrizations(module: nn.Module) -> list[tuple[str, nn.ModuleList]]:
    if not parametrize.is_parametrized(module):
        return []
    lists = module._modules["parametrizations"]
    assert isinstance(lists, nn.ModuleDict)
    return [(name, ways) for name, ways in lists.items() if isinstance(ways, nn.ModuleList)]


def _give_own_class(module: nn.Module) -> None:
    """Copies of a parametrized module share its class, and with it one property per parameter.

    Adding or removing one on the copy would do so on the teacher.
    """
    cls = type(module)
    body = {k: v for k, v in vars(cls).items() if k not in ("__dict__", "__weakref__")}
    module.__class__ = type(cls.__name__, cls.__bases__, body)


def _refuse_common(model: nn.Module, plain: nn.Module) -> None:
    """A `__deepcopy__` that gives the original away would let growing the copy reach it."""
    theirs = {id(m) for m in model.modules()} | set(_memory(model).values())
    for path, module in plain.named_modules():
        if id(module) in theirs:
            raise Unsupported(f"'{path}' copies itself as itself, so its copy cannot be grown")
    for name, address in _memory(plain).items():
        if address in theirs:
            raise Unsupported(f"'{name}' is the same memory in a copy, so it cannot be grown")


def _memory(model: nn.Module) -> dict[str, int]:
    dense = {n: t for n, t in owned_tensors(model).items() if t.layout == torch.strided}
    return {n: t.untyped_storage().data_ptr() for n, t in dense.items() if t.numel()}


def _grow(
    grower: Grower, morphs: Sequence[Morph], seed: int, sources: Mapping[nn.Parameter, _Source]
) -> tuple[Plan, dict[nn.Parameter, _Source]]:
    """Grow the plain copy in place; returns the last plan and what its parameters are made of."""
    values = {parameter: parameter.detach() for parameter in sources}  # growth leaves them alone
    places: dict[Tensor, dict[int, Tensor]] = {}
    for i, morph in enumerate(morphs):
        plan = grower.plan(morph, seed + i if i else seed)
        _refuse_changes(plan)
        grower.grow(plan, proof="algebra")
        owned = owned_tensors(grower.model)  # now: what is inserted first may rename the rest
        with on_cpu():
            for edit in plan.edits:
                known = places.setdefault(owned[edit.name], {})
                for d in edit.dims:
                    now = _first_carriers(plan.embedding(d.form))
                    known[d.dim] = now[known[d.dim]] if d.dim in known else now
    found = {}
    for name, parameter in grower.model.named_parameters():
        if parameter not in sources:  # of a module that is new
            continue
        at, new = places.get(parameter, {}), parameter.detach()
        if not torch.equal(_restricted(new, at), values[parameter]):
            raise CannotPreserve(f"{plan.morph} changes '{name}', so it cannot be the teacher's")
        source = sources[parameter]
        with on_cpu():
            found[parameter] = replace(source, steps=(*source.steps, *_cut(new, at, source.old)))
    return plan, found


def _refuse_changes(plan: Plan) -> None:
    rule, instead = type(plan.rule).__name__, "use R2R(), NetMorph() or Hybrid()"
    if not plan.preserves:
        raise CannotPreserve(
            f"{plan.morph} does not keep the function, and a student must compute what its teacher "
            f"does: {instead}"
        )
    if not plan.changed:
        return
    where = ", ".join(f"'{name}'" for name in plan.changed[:3])
    if isinstance(plan.rule, Net2Net):
        why = "divides the readers of a copied channel, so they cannot be the teacher's own"
    elif plan.turns:
        why = "turns the old channels together with the new ones, so no weight stays as it was"
        instead = "use R2R() on widths inside of blocks, or grow a copy"
    elif any(factor != 1 for factor in plan.against.values()):
        why = "makes up in the keys for a scale of attention that the code computes from the width"
        instead = "grow the heads, or keep the scale in an attribute"
    elif any(len(e.restricted[0]) for e in plan.embeddings.values()):
        why = "lets a single new channel join an old one, whose readers it then shares"
        instead = "add two channels or more"
    else:
        why = "moves existing channels, so their weights cannot stay where the teacher has them"
        instead = "use permute=False"
    raise CannotPreserve(f"{plan.morph} changes {where}: {rule} {why}. To share, {instead}")


def _first_carriers(e: Embedding) -> Tensor:
    """(N,) where each old channel stands."""
    first, carried = torch.full((e.signals,), e.size), e.source >= 0
    first.scatter_reduce_(0, e.source[carried], carried.nonzero().squeeze(1), "amin")
    return first[: e.old]


def _restricted(x: Tensor, at: _Places) -> Tensor:
    for dim, old in at.items():
        x = x.index_select(dim, old.to(x.device))
    return x


def _cut(new: Tensor, at: _Places, like: nn.Parameter) -> Iterator[Step]:
    """The blocks that lead from the old part of a grown tensor to the whole of it."""
    dims = sorted(at)
    for i, dim in enumerate(dims):
        part = _restricted(new, {later: at[later] for later in dims[i + 1 :]})
        is_new = torch.ones(new.shape[dim], dtype=torch.bool)
        is_new[at[dim]] = False
        fresh = is_new.nonzero().squeeze(1)
        if fresh.numel():
            order = torch.argsort(torch.cat([at[dim], fresh])).to(new.device)
            block = in_format_of(like, part.index_select(dim, fresh.to(new.device)))
            yield Step(
                dim,
                nn.Parameter(block, like.requires_grad),
                None if bool((order.diff() == 1).all()) else order,
            )


def _student(plain: nn.Module, sources: Mapping[nn.Parameter, _Source]) -> nn.Module:
    """The grown copy, copied again with the teacher's parameters in place of its own.

    A copy puts them wherever the modules refer to them (lists, flat weights), not only in
    `_parameters`.
    """
    joined = {p: source for p, source in sources.items() if source.steps}
    memo = {id(p): p if p in joined else source.old for p, source in sources.items()}
    student = copy.deepcopy(plain, memo)
    for module in list(student.modules()):
        siblings = tuple(module._parameters)
        own = [(name, joined[p]) for name, p in module._parameters.items() if p in joined]
        if own and parametrize.is_parametrized(module):
            _give_own_class(module)
        for name, source in own:
            _attach(module, name, source, siblings)
    return student


def _attach(module: nn.Module, name: str, source: _Source, siblings: Sequence[str]) -> None:
    blocks, kind = Blocks(source.old, source.steps, siblings), type(module).__name__
    # Registering writes to the parameter (`set_`, or a swap) and may fail half-way, so the
    # teacher's own is put in only afterwards.
    module._parameters[name] = nn.Parameter(source.old.new_empty(0), False)
    try:
        parametrize.register_parametrization(module, name, blocks, unsafe=True)
    except (KeyError, AssertionError) as fault:
        raise Unsupported(
            f"'{name}' of a {kind} cannot be computed from blocks ({fault}): give that parameter "
            f"another name"
        ) from None
    ways = dict(_parametrizations(module))[name]
    ways._parameters["original"] = source.old


def _refuse_lost(teacher: nn.Module, student: nn.Module) -> None:
    held = {id(p) for p in student.parameters()}
    for name, parameter in teacher.named_parameters():
        if id(parameter) not in held:
            raise Unsupported(
                f"'{name}' of the teacher has no place in the student, so it cannot be shared: the "
                f"morph replaces its module, or a module copies itself in a way of its own "
                f"(__deepcopy__). Grow a copy instead"
            )


def _prove(
    student: nn.Module, plain: nn.Module, calls: Sequence[Call], before: Answers, plan: Plan
) -> None:
    """Compare with the teacher's answers, while the copy that the student was made of holds NaN.

    So a reference that still leads to the copy is found.
    """
    with torch.no_grad():
        for parameter in plain.parameters():
            if parameter.is_floating_point() and parameter.layout == torch.strided:
                parameter.fill_(float("nan"))
    try:
        after = answers(student, calls)
    except GrowthError:
        raise
    except Exception as fault:  # whatever a foreign forward raises
        raise Unsupported(
            f"{plan.morph} cannot share this teacher: its forward fails where parameters are "
            f"computed from blocks ({type(fault).__name__}: {fault}). Grow a copy instead"
        ) from None
    if any(bool(y.isnan().any()) for ys in after.outputs for y in ys if y.is_floating_point()):
        raise Unsupported(
            f"{plan.morph} cannot share this teacher: it reads a parameter that grows through "
            f"another reference than its module's attribute (a list, flat weights of an RNN). Grow "
            f"a copy instead, or read the attribute"
        )
    accept(compare(before, after), plan)
