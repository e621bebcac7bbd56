"""Enlarge: a larger kernel, or a smaller dilation, that computes the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from gnomon.adding.padding import Padding, padding_of
from gnomon.analysis.flops import grown_flops, more_flops
from gnomon.axes import Form
from gnomon.editing import insertion
from gnomon.embedding import Embedding, monomial
from gnomon.errors import GrowthError, Unsupported
from gnomon.morphs.places import find, input_of, only_visit
from gnomon.morphs.subject import Subject
from gnomon.planning.edit import (
    AttributeEdit,
    AttributeValue,
    DimEdit,
    ModuleEdit,
    TensorEdit,
    WidthChange,
)
from gnomon.planning.plan import Plan
from gnomon.planning.spec import describe
from gnomon.planning.spreads import spread_of_new
from gnomon.rules import NetMorph

Side = Literal["both", "left", "right"]


@dataclass(frozen=True)
class Enlarge:
    """More taps for the kernel of a convolution; the new ones start at zero.

    kernel:   the new size, or one per spatial dimension; old taps stay where they look.
    dilation: or a divisor of the old dilation: the taps between the old ones are new.
    side:     where new taps go: "both" sides; "left" keeps a causal convolution causal.

    Raises ValueError if the request makes no sense for any model.
    Source: Wei et al. 2016, section 3.4.2; for any parity, stride, dilation and padding.
    """

    where: str
    kernel: int | tuple[int, ...] | None = None
    dilation: int | tuple[int, ...] | None = None
    side: Side = "both"

    def __post_init__(self) -> None:
        if not isinstance(self.where, str) or not self.where:
            raise ValueError(f"where must be the path of a convolution, not {self.where!r}")
        if (self.kernel is None) == (self.dilation is None):
            raise ValueError("give exactly one of kernel=, dilation=")
        sizes = self.kernel if self.kernel is not None else self.dilation
        several = sizes if isinstance(sizes, tuple) else (sizes,)
        if not several or any(type(n) is not int or n < 1 for n in several):
            raise ValueError(f"sizes must be whole numbers above 0, not {sizes!r}")
        if self.side not in ("both", "left", "right"):
            raise ValueError(f"side must be 'both', 'left' or 'right', not {self.side!r}")

    def __str__(self) -> str:
        name = "kernel" if self.kernel is not None else "dilation"
        side = f", side={self.side!r}" if self.side != "both" else ""
        return f"Enlarge({self.where!r}, {name}={getattr(self, name)!r}{side})"

    def plan(self, subject: Subject, seed: int) -> Plan:
        """The edits of the kernel and of what its layer keeps about it. Raises GrowthError."""
        try:
            layer, weight = _convolution(subject, self.where)
            visit = only_visit(subject, layer, self.where)
            x = input_of(visit)
            taps, padding = self._taps(layer, weight, tuple(x.shape[2 - weight.dim() :]))
            modules = _cut(layer, padding, self.where)
        except GrowthError as refusal:
            raise type(refusal)(f"{self} cannot be done: {refusal}") from None
        names = [f"{self.where}.weight[{dim}]" for dim in range(2, weight.dim())]
        grown = {n: e for n, e in zip(names, taps, strict=True) if e.size != e.old}
        dims = tuple(
            DimEdit(2 + i, "write", Form("leaf", e.old, name))
            for i, (name, e) in enumerate(zip(names, taps, strict=True))
            if name in grown
        )
        shape = tuple(weight.shape)
        sizes = (*shape[:2], *(e.size for e in taps))
        std = spread_of_new(f"{self.where}.weight", weight, sizes, NetMorph())
        edit = TensorEdit(f"{self.where}.weight", dims, shape, std, "draw")
        added = weight.numel() // _product(shape[2:]) * (_product(sizes[2:]) - _product(shape[2:]))
        flops, _ = grown_flops(subject.analysis, {})
        ops = subject.analysis.recordings[0].ops[visit.start : visit.end]
        return Plan(
            str(self), NetMorph(), seed, subject.fingerprint, grown, (edit,),
            attributes=_attributes(self.where, layer, padding),
            widths=tuple(WidthChange(n, e.old, e.size, e.size) for n, e in grown.items()),
            parameters=(subject.parameters, subject.parameters + added),
            flops=(flops, flops + more_flops(ops, weight, sizes) // subject.examples),
            modules=modules,
        )  # fmt: skip

    def _taps(
        self, layer: _ConvNd, weight: Tensor, size: tuple[int, ...]
    ) -> tuple[list[Embedding], Padding]:
        """Per spatial dimension where the old taps stand; and the padding that goes with it."""
        old, padding = tuple(weight.shape[2:]), padding_of(layer)
        if self.dilation is not None:
            wanted = _each(self.dilation, len(old))
            return [_spread(*at) for at in zip(old, layer.dilation, wanted, strict=True)], (
                padding.with_dilation(wanted)
            )
        wanted = _each(self.kernel, len(old))
        taps = []
        for i, (k, new) in enumerate(zip(old, wanted, strict=True)):
            if new < k:
                raise Unsupported(f"its kernel is {k} wide along dimension {i}; asked {new}")
            left = padding.left(i, k, new, self.side)
            padding = padding.grown(i, left, new - k - left, new)
            taps.append(_taps_at(k, left, new))
        if wanted == old:
            raise Unsupported(f"its kernel is {old} already")
        padding.check(size)
        return taps, padding


def _each(sizes: int | tuple[int, ...] | None, dims: int) -> tuple[int, ...]:
    several = sizes if isinstance(sizes, tuple) else (sizes,) * dims
    if len(several) != dims:
        raise Unsupported(f"its kernel has {dims} dimensions, but {several} were asked for")
    return tuple(int(n or 0) for n in several)


def _taps_at(old: int, left: int, new: int) -> Embedding:
    source = torch.full((new,), -1)
    source[left : left + old] = torch.arange(old)
    return monomial(source, old, 0)


def _spread(taps: int, dilation: int, wanted: int) -> Embedding:
    """The old taps, with zeros between them where the dilation gets smaller."""
    if wanted > dilation or dilation % wanted:
        raise Unsupported(f"its dilation {dilation} is no multiple of the {wanted} asked for")
    factor = dilation // wanted
    source = torch.full((factor * (taps - 1) + 1,), -1)
    source[::factor] = torch.arange(taps)
    return monomial(source, taps, 0)


def _convolution(subject: Subject, path: str) -> tuple[_ConvNd, Tensor]:
    """A plain convolution and its kernel, which nothing else uses. Raises Unsupported."""
    layer = find(subject.model, path)
    if not isinstance(layer, _ConvNd):
        raise Unsupported(f"'{path}' is a {type(layer).__name__}, not a convolution of torch.nn")
    weight = layer._parameters.get("weight")
    if weight is None:
        raise Unsupported(f"the weight of '{path}' is computed (a parametrization): bake it first")
    every = subject.model.named_parameters(remove_duplicate=False)
    tied = [n for n, p in every if p is weight and n != f"{path}.weight"]
    if tied:
        raise Unsupported(f"'{path}.weight' is tied to '{tied[0]}'")
    if not weight.is_floating_point():
        raise Unsupported(f"'{path}.weight' is {weight.dtype}: only floats can grow")
    return layer, weight


def _cut(layer: nn.Module, padding: Padding, path: str) -> tuple[ModuleEdit, ...]:
    """What cuts off the surplus outputs of a transposed convolution, behind a hook."""
    if not any(padding.surplus):
        return ()
    if insertion.has_hook(layer):
        raise Unsupported(
            "the surplus of its outputs would have to be cut off before the blocks that are run "
            "on them: grow by an even number"
        )
    pads = tuple(n for more in reversed(padding.surplus) for n in (0, -more))
    cls = (nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d)[len(padding.surplus) - 1]
    return (ModuleEdit("hook", path, describe(cls(pads, 0.0)), "kept"),)  # type: ignore[arg-type]


def _attributes(path: str, layer: nn.Module, padding: Padding) -> tuple[AttributeEdit, ...]:
    edits = []
    for name, new in padding.attributes().items():
        held = layer.__dict__.get(name)
        old: AttributeValue = tuple(held) if isinstance(held, list) else held  # type: ignore[assignment]
        if old != new:
            edits.append(AttributeEdit(path, name, old, new))
    return tuple(edits)


def _product(sizes: Sequence[int]) -> int:
    return int(torch.Size(sizes).numel())
