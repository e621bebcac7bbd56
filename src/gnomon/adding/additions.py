"""Put a plan's modules into a model, and their parameters into its optimizers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer, RMSprop

from gnomon.adding.branching import branched_module
from gnomon.adding.copying import copied_module, copy_of
from gnomon.adding.dividing import divided_module
from gnomon.adding.folding import fold, in_form
from gnomon.adding.making import Started, Tried, make, start
from gnomon.adding.numbering import renumber
from gnomon.adding.replacing import factored_module
from gnomon.adding.standing import check_zero_in
from gnomon.adding.upcycling import part_experts, upcycled_for_load, upcycled_module
from gnomon.analysis.groups import Analysis
from gnomon.editing import insertion, param_groups
from gnomon.editing.first_gradients import FirstGradients
from gnomon.editing.surgery import Surgery
from gnomon.errors import BadCheckpoint, GrowthError, NotProved, Stale, Unsupported
from gnomon.ops.context import Op
from gnomon.planning.edit import ModuleEdit, key_of
from gnomon.planning.plan import Plan
from gnomon.planning.spec import Factories, build, classes_of, factories_needed
from gnomon.recording.tape import Call, Recording, owned_tensors, record

# Modules that are made from the one whose place they take.
DERIVED = {
    "factored": factored_module,
    "branched": branched_module,
    "upcycled": upcycled_module,
}

# Copies of modules of the model, which share with it what those share.
OF_OTHERS = ("copied", "divided")

_WAYS = {
    "insert": insertion.insert,
    "hook": insertion.hook,
    "replace": insertion.replace,
}


@dataclass(frozen=True)
class Added:
    """What was put in.

    modules: in the order of the plan, each with the parts of it that were made zero.
    renamed: state_dict names that moved.
    """

    modules: tuple[tuple[nn.Module, ModuleEdit, Started], ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)


def put(model: nn.Module, edit: ModuleEdit, module: nn.Module) -> tuple[str, insertion.Undo]:
    """Put one module where an edit says. Returns its path and the undo. Raises Stale."""
    try:
        model.get_submodule(edit.place)
    except AttributeError:
        raise Stale(f"there is no module '{edit.place}': plan again") from None
    path, take_out = _WAYS[edit.how](model, edit.place, module)
    if edit.start != "copied":
        return path, take_out
    try:
        number_back = renumber(model, edit)
    except BaseException:
        take_out()
        raise

    def undo() -> None:
        number_back()
        take_out()

    return path, undo


def add_modules(
    model: nn.Module,
    plan: Plan,
    optimizers: Sequence[Optimizer],
    surgery: Surgery,
    tried: Tried | None = None,
) -> Added:
    """Make and put in what the plan lists. On any error the caller undoes `surgery`.

    tried: modules that planning has made already, each of which is put in at most once.
    """
    if not plan.modules:
        return Added()
    begun, before = time.perf_counter(), insertion.names(model)
    modules: list[tuple[nn.Module, ModuleEdit, Started]] = []
    moved: dict[str, str] = {}
    settled: set[int] = set()
    for number, edit in enumerate(plan.modules):
        if edit.start == "folded":
            module, renamed = fold(model, edit, optimizers, surgery)
            modules.append((module, edit, ()))
            moved |= renamed
        else:
            key = key_of(plan.modules, number)
            beside = model.get_submodule(edit.place)
            ready = None if tried is None else tried.take(edit, key, plan.seed)
            modules.append(_add(model, edit, key, plan.seed, surgery, ready))
            if edit.start in DERIVED:
                settled |= _settle(model, edit, beside, optimizers, surgery)
            if edit.start == "upcycled":
                part_experts(modules[-1][0], edit, key, plan.seed, optimizers, surgery)
    moved |= insertion.renamed(before, insertion.names(model))
    fresh = {
        id(p)
        for m, edit, _ in modules if edit.start != "folded" for p in m.parameters()
        if edit.start not in OF_OTHERS or id(p) not in before  # copies share what theirs share
    }  # fmt: skip
    new = {name: p for name, p in model.named_parameters() if id(p) in fresh - settled}
    for undo in param_groups.rename(optimizers, moved):
        surgery.on_undo(undo)
    for undo in param_groups.join(optimizers, model, new):
        surgery.on_undo(undo)
    _begin(optimizers, [p for p in model.parameters() if id(p) in fresh - before.keys()], surgery)
    surgery.seconds += time.perf_counter() - begun
    return Added(tuple(modules), moved)


def _begin(optimizers: Sequence[Optimizer], new: Sequence[nn.Parameter], surgery: Surgery) -> None:
    """Let RMSprop's first steps of whole new parameters be no longer than its later ones."""
    for optimizer in (o for o in optimizers if isinstance(o, RMSprop)):
        hook, take_off = FirstGradients.of(optimizer)
        surgery.on_undo(take_off)
        for parameter in new:
            surgery.on_undo(hook.begin(parameter))


def _add(
    model: nn.Module,
    edit: ModuleEdit,
    key: str,
    seed: int,
    surgery: Surgery,
    ready: tuple[nn.Module, Started] | None,
) -> tuple[nn.Module, ModuleEdit, Started]:
    if ready is not None and not _is_away(model, edit):
        module, started = ready
        _follow(module, model, edit)
        _, undo = put(model, edit, module)
        surgery.on_undo(undo)
        return module, edit, started
    if edit.start == "copied":
        module, started = copied_module(model, edit, key, seed)
        module.train(model.get_submodule(edit.place).training)
        _, undo = put(model, edit, module)
        surgery.on_undo(undo)
        return module, edit, started
    if edit.start == "divided":
        module = divided_module(model, edit, key, seed, surgery)
        module.train(model.get_submodule(edit.place).training)
        _, undo = put(model, edit, module)
        surgery.on_undo(undo)
        return module, edit, ()
    if edit.start in DERIVED:
        module = DERIVED[edit.start](
            model.get_submodule(edit.place), edit, key, seed, classes_of(model)
        )
    else:
        module = make(edit, key, seed, classes_of(model))
    _follow(module, model, edit)
    started = start(module, edit, key, seed)
    _, undo = put(model, edit, module)
    surgery.on_undo(undo)
    return module, edit, started


def _settle(
    model: nn.Module,
    edit: ModuleEdit,
    old: nn.Module,
    optimizers: Sequence[Optimizer],
    surgery: Surgery,
) -> set[int]:
    """Let the parameters of a module take the place of those it was made from."""
    now = model.get_submodule(edit.place)
    for undo in param_groups.take_place(optimizers, old, now, edit.place):
        surgery.on_undo(undo)
    held = {id(p) for o in optimizers for g in o.param_groups for p in g["params"]}
    return {id(p) for p in now.parameters()} & held


def _follow(module: nn.Module, model: nn.Module, edit: ModuleEdit) -> None:
    """Device and mode of the module it is put next to."""
    beside = model.get_submodule(edit.place)
    module.to(_near(model, edit).device)
    module.train(beside.training)


def _near(model: nn.Module, edit: ModuleEdit) -> Tensor:
    """Some parameter of the module that a new one is put next to, or of the model."""
    beside = model.get_submodule(edit.place)
    return next((p for m in (beside, model) for p in m.parameters()), torch.empty(0))


def _is_away(model: nn.Module, edit: ModuleEdit) -> bool:
    """Whether the module would be started elsewhere than where planning has tried it."""
    return _near(model, edit).device.type != "cpu"


def build_for_load(
    model: nn.Module, edit: ModuleEdit, factories: Factories, most: int
) -> nn.Module:
    """The module without its values, for a file that holds `most` numbers. Raises BadCheckpoint."""
    if "form" in edit.options:
        return in_form(model, edit)
    if edit.start == "upcycled":
        return upcycled_for_load(model, edit, most)
    if edit.start in OF_OTHERS:
        return _copied_for_load(model, edit, most)
    known = {**classes_of(model), **factories}
    try:
        if not factories_needed(edit.spec):
            with torch.device("meta"):
                ghost = build(edit.spec, known)
            size = sum(t.numel() for t in owned_tensors(ghost).values())
            if size > most:
                raise Stale(f"a block of {size:,} numbers is named, but only {most:,} are there")
        with torch.random.fork_rng(devices=[]):
            module = build(edit.spec, known)
        _follow(module, model, edit)
    except GrowthError:
        raise
    except Exception as fault:  # a tampered file may make a constructor raise anything
        name = type(fault).__name__
        raise BadCheckpoint(f"a block cannot be made or has no place ({name}: {fault})") from fault
    return module


def _copied_for_load(model: nn.Module, edit: ModuleEdit, most: int) -> nn.Module:
    module = copy_of(model, str(edit.options["of"]))
    size = sum(t.numel() for t in module.parameters())
    if size > most:
        raise BadCheckpoint(f"a block of {size:,} numbers is named, but only {most:,} are there")
    return module


def check_runs(
    model: nn.Module,
    calls: Sequence[Call],
    analysis: Analysis,
    added: Added,
    *,
    training: bool,
    on_op: Callable[[Op], None] | None = None,
) -> list[Recording]:
    """Raise NotProved or Unsupported unless each new module runs once and the rest runs as before.

    A block that is never called changes nothing, hence no comparison of outputs would find it. What
    was made zero must be zero there.
    Returns the passes of one mode; on_op is called after each of their operations.
    """
    new = {id(m) for module, _, _ in added.modules for m in module.modules()}
    # what takes the place of a module, and another number of experts, take operations of their own
    replaced = any(e.how == "replace" or e.start == "divided" for _, e, _ in added.modules)
    runs = []
    for call, old in zip(calls, analysis.recordings[training::2], strict=True):
        run = _run(model, call, training, analysis.fake, on_op)
        runs.append(run)
        for module, edit, started in added.modules:
            times = sum(visit.module is module for visit in run.visits)
            if times != 1:
                raise Unsupported(
                    f"the code runs what was put behind '{edit.place}' {times} times instead of "
                    f"once. Name another module"
                )
            if not analysis.fake:
                check_zero_in(run, module, edit, started)
        if not replaced and _names(run.ops, new) != _names(old.ops, set()):
            raise NotProved(
                f"with a block behind '{added.modules[0][1].place}' the code takes another path: "
                f"the operations around it are not those of before. Everything was undone"
            )
    return runs


def _run(
    model: nn.Module,
    call: Call,
    training: bool,
    fake: bool,
    on_op: Callable[[Op], None] | None,
) -> Recording:
    try:
        return record(model, call, training=training, fake=fake, on_op=on_op)
    except GrowthError:
        raise
    except Exception as fault:  # whatever foreign code raises
        raise Unsupported(
            f"with the new modules the model does not run on the example inputs "
            f"({type(fault).__name__}: {fault}). Everything was undone"
        ) from fault


def _names(ops: Sequence[Op], new: set[int]) -> list[str]:
    return [op.name for op in ops if not any(id(m) in new for m in op.path)]
