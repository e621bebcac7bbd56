"""Factor: one layer as two or more, with an activation between, computing the same."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from gnomon.activations import PActivation, PBatchNorm
from gnomon.adding.neighbour import slope_of_odd_part
from gnomon.adding.plain_layer import Layer, layer_of, module_of
from gnomon.adding.replacing import options_of
from gnomon.adding.splitting import MOST_MEMORY, Border, Split, Way, memory_of, split
from gnomon.decompose import Geometry, frame
from gnomon.editing import insertion
from gnomon.errors import GrowthError, Unsupported
from gnomon.morphs.places import find, input_of, only_visit
from gnomon.morphs.subject import Subject
from gnomon.planning.edit import ModuleEdit
from gnomon.planning.plan import Plan
from gnomon.planning.spec import describe
from gnomon.recording.tape import record
from gnomon.rules import NetMorph

_NORMS = {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
Kernel = int | tuple[int, ...]


@dataclass(frozen=True)
class Factor:
    """One linear or convolutional layer as a row of them: kernels, widths between, activations.

    mid:     channels between, one number per gap; by default 4 times the layer's outputs.
    kernels: of the new layers, one more than gaps; by default the layer's own, then 1x1. Together
             they must reach as far as the layer does; if further, its taps lie in the middle.
    activation: between them, a module such as nn.GELU(); None for nothing. Where the activation
             allows it and mid >= 2 * outputs, it is passed exactly by antisymmetric pairs; else it
             becomes a P-activation, (1 - a) phi + a id, that starts as the identity and is learned.
             A PActivation of your own (a=1) asks for that in any case.
    norm:    a BatchNorm before each activation, as a P-norm that starts as the identity.
    border:  "exact" pads in front of the first layer only: hidden maps are larger. "same" keeps
             their size, still exact: one dense base tap and pairs that cancel. "interior" keeps
             the size and is wrong in a frame, whose width the plan says.

    Raises ValueError if the request makes no sense for any layer.
    Source: Wei et al. 2016, sections 3.2 to 3.4, with the conditions and borders corrected.
    """

    where: str
    mid: int | tuple[int, ...] | None = None
    kernels: tuple[Kernel, ...] | None = None
    activation: nn.Module | None = None
    norm: bool = False
    border: Border = "exact"

    def __post_init__(self) -> None:
        if not isinstance(self.where, str) or not self.where:
            raise ValueError(f"where must be the path of a layer, not {self.where!r}")
        mids = self.mid if isinstance(self.mid, tuple) else (1 if self.mid is None else self.mid,)
        if not mids or any(type(n) is not int or n < 1 for n in mids):
            raise ValueError(f"mid must be whole numbers above 0, not {self.mid!r}")
        if self.kernels is not None:
            if not isinstance(self.kernels, tuple) or len(self.kernels) != len(mids) + 1:
                raise ValueError(f"kernels must be {len(mids) + 1} of them, not {self.kernels!r}")
            flat = [n for k in self.kernels for n in (k if isinstance(k, tuple) else (k,))]
            if any(type(n) is not int or n < 1 for n in flat):
                raise ValueError(f"kernels must be whole numbers above 0, not {self.kernels!r}")
        if self.activation is not None and not isinstance(self.activation, nn.Module):
            raise ValueError(f"activation must be a module, not {self.activation!r}")
        if self.border not in ("exact", "same", "interior"):
            raise ValueError(f"border must be 'exact', 'same' or 'interior', not {self.border!r}")

    def __str__(self) -> str:
        phi = f", activation={type(self.activation).__name__}()" if self.activation else ""
        phi += ", norm=True" if self.norm else ""
        border = f", border={self.border!r}" if self.border != "exact" else ""
        return f"Factor({self.where!r}, mid={self.mid}, kernels={self.kernels}{phi}{border})"

    def plan(self, subject: Subject, seed: int) -> Plan:
        """The replacement, its weights still to be solved for. Raises GrowthError."""
        module = find(subject.model, self.where)
        try:
            layer = layer_of(module)
            x = input_of(only_visit(subject, module, self.where))
            if self.norm and x.dim() != 2 + len(layer.kernel):
                raise Unsupported(
                    f"a BatchNorm between needs inputs of {2 + len(layer.kernel)} dimensions, with "
                    f"the batch first, not {tuple(x.shape)}: leave out norm="
                )
            how, notes = self._how(layer)
            row = split(layer, how, None)
            if needed := memory_of(layer, how):
                solver = "base and pairs, which take little" if needed > MOST_MEMORY else "Cholesky"
                notes.append(f"solving takes up to {needed / 1e6:,.0f} MB: {solver}")
            made = self._module(row, how)
            refuse_tied(subject, module, self.where)
            refuse_misfit(subject, self.where, made)
        except GrowthError as refusal:
            raise type(refusal)(f"{self} cannot be done: {refusal}") from None
        costs = subject.costs(made, x.shape, old=module)
        options = options_of(how)
        if self.border == "interior":
            options["frame"] = _frame(row, tuple(x.shape[2:]))
            width = " x ".join(map(str, options["frame"]))
            notes.append(
                f"border='interior': a frame of {width} outputs is wrong, once the biases between "
                f"have learned at the latest; with a BatchNorm behind it, all others in train mode"
            )
        edit = ModuleEdit(
            "replace", self.where, describe(made), "factored",
            shape=tuple(x.shape),
            options=options,
        )  # fmt: skip
        return Plan(
            str(self), NetMorph(), seed, subject.fingerprint, {}, (), (), (),
            notes=tuple(notes),
            parameters=costs.parameters,
            flops=costs.flops,
            modules=(edit,),
        )  # fmt: skip

    def _how(self, layer: Layer) -> tuple[Split, list[str]]:
        """The widths, kernels and way that were asked for, or that fit the layer."""
        dims, out = len(layer.kernel), layer.weight.shape[0]
        mids = self.mid if isinstance(self.mid, tuple) else (self.mid or 4 * out,)
        kernels = self.kernels or (layer.kernel, *((1,) * dims for _ in mids))
        each = tuple(k if isinstance(k, tuple) else (k,) * dims for k in kernels)
        way, kappa, notes = self._way(mids, out)
        return Split(mids, each, self.border, way, kappa), notes

    def _way(self, mids: Sequence[int], out: int) -> tuple[Way, float, list[str]]:
        if self.activation is None:
            return "linear", 1.0, ["linear between the new layers"]
        if isinstance(self.activation, PActivation):
            return "gate", 1.0, ["the P-activation that was given, the identity where a = 1"]
        kappa = slope_of_odd_part(self.activation)
        name = type(self.activation).__name__
        if kappa and not self.norm and all(n >= 2 * out and n % 2 == 0 for n in mids):
            return "pairs", kappa, [f"through {name} by antisymmetric pairs"]
        return "gate", 1.0, [f"{name} as a P-activation, the identity at first (a = 1)"]

    def _module(self, row: Sequence[Layer], how: Split) -> nn.Sequential:
        made: OrderedDict[str, nn.Module] = OrderedDict()
        for i, layer in enumerate(row, start=1):
            made[f"layer{i}"] = module_of(layer)
            if i == len(row):
                break
            width, dims = layer.weight.shape[0], len(layer.kernel)
            number = "" if len(row) == 2 else str(i)
            if self.norm:
                made[f"norm{number}"] = PBatchNorm(_NORMS[dims](width)).to(layer.weight)
            if self.activation is not None:
                phi = copy.deepcopy(self.activation)
                if how.way == "gate" and not isinstance(phi, PActivation):
                    phi = PActivation(phi)
                made[f"activation{number}"] = phi.to(layer.weight)
        return nn.Sequential(made)


def _frame(row: Sequence[Layer], sizes: tuple[int, ...]) -> list[int]:
    """How wide the frame is in which padded layers differ from the one they replace."""
    width = [0] * len(sizes)
    for first, second in pairwise(row):
        one, two = (Geometry(x.sides, x.stride, x.dilation) for x in (first, second))
        full = tuple(tuple(tuple(range(k)) for k in x.kernel) for x in (first, second))
        kernels = first.kernel, second.kernel
        bias = first.bias is not None
        found = frame(full, one, two, kernels=kernels, sizes=sizes, bias=bias)  # type: ignore[arg-type]
        width = [w + max(pair) for w, pair in zip(width, found, strict=True)]
    return width


def refuse_tied(subject: Subject, module: nn.Module, path: str) -> None:
    """Raise Unsupported if something else uses a layer's parameters, or hooks hang on it."""
    own = {id(p) for p in module.parameters()}
    for name, parameter in subject.model.named_parameters(remove_duplicate=False):
        if id(parameter) in own and not name.startswith(f"{path}."):
            raise Unsupported(f"'{name}' is also a parameter of '{path}': replacing unties it")
    for op in (op for recording in subject.analysis.recordings for op in recording.ops):
        if module not in op.path and any(id(t) in own for t in op.tensors()):
            raise Unsupported(
                f"the code also uses a parameter of '{path}' outside of it, in {op.name}, and "
                f"would go on using the old one"
            )
    if any(getattr(module, hooks) for hooks in _HOOKS):
        raise Unsupported(f"'{path}' has hooks, which would be lost: take them off first")


def refuse_misfit(subject: Subject, path: str, made: nn.Module) -> None:
    """Raise Unsupported if the code does not run with another module in the place of a layer."""
    _, undo = insertion.replace(subject.model, path, made)
    try:
        for call in subject.calls:
            for training in (False, True):
                fake = subject.analysis.fake
                record(subject.model, call, training=training, fake=fake, keep=False)
    except GrowthError:
        raise
    except Exception as fault:  # whatever a foreign forward raises
        raise Unsupported(
            f"with other layers in the place of '{path}' the code does not run "
            f"({type(fault).__name__}: {fault})"
        ) from fault
    finally:
        undo()
