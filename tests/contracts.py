"""Every rule times every toy: how they are grown, and how a model is looked at from outside."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

import gnomon as gn
from gnomon.embedding import Embedding
from gnomon.planning.edit import TensorEdit
from gnomon.planning.plan import Plan
from toys import TOYS


@dataclass(frozen=True)
class Method:
    """A rule and how far it grows.

    toys: where it can be used at all; everywhere if empty.
    where: the groups to grow, or every growable one by name.
    """

    rule: gn.Rule
    by: float
    toys: tuple[str, ...] = ()
    where: str | None = None


# Zero writers need an activation with f(0) = 0 and a slope there.
_LIVE_AT_ZERO = ("mlp conv_flatten_linear normed_mlp called_twice layer_scale bag_of_words").split()
_STREAMS = ("pre_norm", "gemma", "tied_stream", "bare_norms")
_TURNED = ("normed_mlp", "pre_norm", "gemma", "bare_norms")
_FEW = (
    "mlp resnet densenet conv_flatten_linear resnext instancenorm unet weight_normed called_twice "
    "einsum attention splits cascades experts_loop experts_stacked experts_picked"
).split()
_NORMED = (
    *("groupnorm", "normed_mlp", "layer_scale", "bag_of_words", "resnet", "attention_normed"),
    *("tied_decoder", "parts", "windows", "pyramid"),
    *_STREAMS,
)

ALL_RULES: dict[str, Method] = {
    "R2R": Method(gn.R2R(), 2),
    "R2R-one": Method(gn.R2R(), 1.2, tuple(_FEW)),
    "R2R-he": Method(gn.R2R(init="he", statistics="copied"), 1.5, tuple(_FEW)),
    "Net2Net": Method(gn.Net2Net(), 1.5),
    "Net2Net-even": Method(gn.Net2Net(uneven=False), 3, tuple(_FEW)),
    "Net2Net-normed": Method(gn.Net2Net(), 2, _NORMED, "*"),
    "NetMorph": Method(gn.NetMorph(), 1.5),
    "NetMorph-permuted": Method(gn.NetMorph(permute=True), 1.5, tuple(_FEW)),
    "NetMorph-writers": Method(gn.NetMorph(zero="writers"), 1.5, (*_LIVE_AT_ZERO, *_STREAMS), "*"),
    "Hybrid": Method(gn.Hybrid(), 2, tuple(_FEW)),
    "Isometry": Method(gn.Isometry(), 1.5, _TURNED, "*"),
}


def cells(*rules: str) -> list[tuple[str, str]]:
    """(rule, toy) for these rules, or for all."""
    return [
        (name, toy)
        for name, method in ALL_RULES.items()
        if not rules or name in rules
        for toy in TOYS
        if not method.toys or toy in method.toys
    ]


@dataclass
class Growth:
    """A toy before, after one growth and after two. Look, but copy before you touch."""

    old: nn.Module
    new: nn.Module
    newer: nn.Module
    inputs: object
    receipts: list[gn.Receipt]

    @property
    def plan(self) -> Plan:
        return self.receipts[0].plan


@cache
def growth(
    rule: str, toy: str, dtype: torch.dtype = torch.float64, *, last: bool = False
) -> Growth:
    """Grow all growable groups of a toy at once, and again; last: in channels_last.

    Other dtypes and formats grow only once.
    """
    method, spec = ALL_RULES[rule], TOYS[toy]
    memory = {"memory_format": torch.channels_last} if last else {}
    old, inputs = spec.model(dtype).to(**memory), spec.example(dtype)
    newer = copy.deepcopy(old)
    grower = gn.Grower(newer, inputs)
    stages, receipts = [], []
    for seed in range(1 if last or dtype != torch.float64 else 2):
        where = method.where or growable(grower, spec.literals)
        receipts.append(grower.grow(gn.Widen(where, by=method.by, rule=method.rule), seed=seed))
        stages.append(copy.deepcopy(newer))
    return Growth(old, stages[0], stages[-1], inputs, receipts)


def growable(grower: gn.Grower, but: tuple[str, ...] = ()) -> list[str]:
    return [g.name for g in grower.groups if g.verdict == "growable" and g.name not in but]


def run(model: nn.Module, inputs: object) -> list[Tensor]:
    """The output tensors of every call."""
    found = []
    for call in inputs if isinstance(inputs, list) else [inputs]:
        args = call if isinstance(call, tuple) else () if isinstance(call, dict) else (call,)
        found += pytree.tree_leaves(model(*args, **(call if isinstance(call, dict) else {})))
    return found


def without_dropout(model: nn.Module, training: bool) -> nn.Module:
    """A copy in one mode, to run as you like."""
    twin = copy.deepcopy(model).train(training)
    for module in twin.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    return twin


@torch.no_grad()
def answers(model: nn.Module, inputs: object, training: bool) -> list[Tensor]:
    return run(without_dropout(model, training), inputs)


def change(old: list[Tensor], new: list[Tensor]) -> float:
    """The largest max|change| / max|old| of corresponding outputs."""
    pairs = zip(old, new, strict=True)
    return max(
        float((a.double() - b.double()).abs().max() / a.double().abs().max()) for a, b in pairs
    )


def loss(model: nn.Module, inputs: object) -> Tensor:
    """A scalar that every output entry takes part in, each with another weight."""
    draw = torch.Generator().manual_seed(5)
    total = torch.zeros((), dtype=torch.float64)
    for y in run(model, inputs):
        weight = torch.randn(y.shape, generator=draw, dtype=torch.float64)
        total = total + (y * weight + y**2).sum()
    return total


def first_carriers(e: Embedding) -> Tensor:
    """(N,) the channel that each old channel became: the first that carries it."""
    return torch.stack([(e.source == i).nonzero()[0, 0] for i in range(e.old)])


def old_part(x: Tensor, edit: TensorEdit, plan: Plan) -> Tensor:
    """The entries of a grown tensor where the old ones stood."""
    for d in edit.dims:
        x = x.index_select(d.dim, first_carriers(plan.embedding(d.form)))
    return x


def new_blocks(x: Tensor, edit: TensorEdit, plan: Plan) -> Iterator[tuple[str, Tensor]]:
    """The other blocks of a grown tensor: new or old along each grown dimension, not all old."""
    parts = [("", x)]
    for d in edit.dims:
        e = plan.embedding(d.form)
        is_old = torch.zeros(e.size, dtype=torch.bool)
        is_old[first_carriers(e)] = True
        parts = [
            (f"{label} {name} {d.role}", part.index_select(d.dim, keep.nonzero().squeeze(1)))
            for label, part in parts
            for name, keep in (("old", is_old), ("new", ~is_old))
        ]
    return ((label, part) for label, part in parts if "new" in label and part.numel())


def tensors(model: nn.Module) -> dict[str, Tensor]:
    return dict([*model.named_parameters(), *model.named_buffers()])
