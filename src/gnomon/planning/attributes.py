"""Attributes of modules that say how wide their tensors are, or how many groups there are."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from gnomon.analysis.groups import Analysis
from gnomon.axes import form
from gnomon.planning.edit import AttributeEdit
from gnomon.planning.layers import sizes_of
from gnomon.planning.plan import Plan


def grown_attributes(model: nn.Module, analysis: Analysis, plan: Plan) -> list[AttributeEdit]:
    """The edits of attributes that go with a plan's edits of tensors."""
    shapes = {edit.name: plan.grown_shape(edit) for edit in plan.edits}
    edits = _of_operations(model, analysis, plan)
    for path, module in model.named_modules():
        own = _own_shapes(path, module, shapes)
        if own is None:
            continue
        changed = edits.get((path, "groups"))
        groups = changed.new if changed else module.__dict__.get("groups", 1)
        assert isinstance(groups, int)
        for name, new in sizes_of(module, own, groups).items():
            old = module.__dict__.get(name)
            if isinstance(old, int | tuple) and old != new:
                edits[path, name] = AttributeEdit(path, name, old, new)
    return list(edits.values())


def _of_operations(
    model: nn.Module, analysis: Analysis, plan: Plan
) -> dict[tuple[str, str], AttributeEdit]:
    """Integer arguments of operations that grow: conv groups, norm groups."""
    paths = {id(m): path for path, m in model.named_modules()}
    names = {g.leaf: g.name for g in analysis.groups if g.name in plan.embeddings}
    found = {}
    for module, name, axis in analysis.context.attributes:
        whole = form(axis, names)
        new = whole.grown(plan.sizes)
        held = module.__dict__.get(name)
        if (
            id(module) in paths
            and whole.names()
            and type(held) is int
            and held == whole.size
            and held != new
        ):
            path = paths[id(module)]
            found[path, name] = AttributeEdit(path, name, held, new)
    return found


def _own_shapes(
    path: str, module: nn.Module, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]] | None:
    """The shapes of a module's tensors after growth, or None if none of them grows."""
    prefix = f"{path}." if path else ""
    own = {
        key: shapes.get(prefix + key, tuple(x.shape))
        for key, x in [*module._parameters.items(), *module._buffers.items()]
        if x is not None
    }
    grows = any(prefix + key in shapes for key in own)
    parametrized = module._modules.get("parametrizations")
    for key in parametrized._modules if parametrized is not None else ():
        for original in ("original", "original1"):  # a parametrized weight has this one's shape
            name = f"{prefix}parametrizations.{key}.{original}"
            if name in shapes:
                own[key], grows = shapes[name], True
    return own if grows else None
