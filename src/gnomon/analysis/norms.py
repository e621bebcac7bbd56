"""Norms over channels, recognised by what they compute and never by a class or a name.

One operation (`native_layer_norm`) or many, written out by hand:

    LayerNorm   d = x - mean(x);   y = d * rsqrt(mean(d^2) + eps)         then  g * y + b
    RMSNorm                        y = x * rsqrt(mean(x^2) + eps)         then  g * y

with casts anywhere, `var(correction=0)` for the mean of squares, `/ sqrt` for `* rsqrt`, and a gain
that is a parameter or a multiple of it plus a number, such as Gemma's (1 + w). A value in the
middle that is used elsewhere too makes it something else, which is not recognised.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gnomon.analysis.dataflow import Dataflow, Value
from gnomon.axes import Axis, leaves
from gnomon.ops.context import Context, Op
from gnomon.ops.names import COPIES
from gnomon.recording.tape import Recording

Kind = Literal["layer", "rms"]

# How a gain comes to meet the channels: no part of it is left out on the way.
_MOVES = (*COPIES, "view", "_unsafe_view", "unsqueeze", "expand", "t", "transpose", "permute")


@dataclass(frozen=True)
class Gain:
    """What multiplies the normalised channels: slope * parameter + offset."""

    name: str
    slope: float = 1.0
    offset: float = 0.0


@dataclass(frozen=True)
class Eps:
    """The number added to the mean of squares, and the attribute that holds it, if one does.

    op: the operation that it is an argument of.   least: the machine epsilon of its dtype.
    """

    value: float
    op: Op
    least: float
    path: str | None
    name: str = ""
    held: float = 0.0


@dataclass(frozen=True, eq=False)
class Norm:
    """One norm on the tape.

    axes:  what is averaged over.   x: what is normalised, as `last` or an operation before it got.
    last:  the operation that gives the normalised channels, the gain not yet in it unless it is
           the only one.
    ops:   all operations that it is made of, those of gain and bias too.
    gain:  None if it has none, or if what it is multiplied by is not known; then `out` is None too.
    out:   what it gives, with gain and bias; None if it is multiplied by a gain more than once.
    """

    kind: Kind
    axes: tuple[Axis, ...]
    x: Value
    last: Op
    ops: tuple[Op, ...]
    eps: Eps | None
    gain: Gain | None
    bias: str | None
    where: str
    out: Value | None


def find_norms(
    model: nn.Module, t: Context, recordings: Iterable[Recording]
) -> tuple[tuple[Norm, ...], ...]:
    """The norms of every recording whose parts have a gain that nothing else uses."""
    paths = {id(m): name for name, m in model.named_modules()}
    found = []
    for recording in recordings:
        flow = Dataflow(recording.ops)
        own = [
            norm
            for op in recording.ops
            if op.name in _ROOTS and (norm := _Reader(t, flow, paths).read(op)) is not None
        ]
        found.append(tuple(own))
    return tuple(found)


@dataclass(frozen=True)
class _Square:
    """mean(x^2), or mean((x - mean(x))^2)."""

    kind: Kind
    x: Value
    value: Value  # the mean of squares
    ops: list[Op]
    centred: tuple[Value, ...]  # what may be divided by its root


@dataclass(frozen=True)
class _Reader:
    """Reads one norm off the operations around its mean of squares."""

    t: Context
    flow: Dataflow
    paths: Mapping[int, str]

    def read(self, op: Op) -> Norm | None:
        """The norm that this operation is part of, seen from its average."""
        if op.name in ("native_layer_norm", "_fused_rms_norm"):
            return self._one_operation(op)
        square = self._square(op)
        return None if square is None else self._rest(op, square)

    def _one_operation(self, op: Op) -> Norm | None:
        x, shape, weight = op.args[0], op.args[1], op.argument(2, "weight")
        is_layer = op.name == "native_layer_norm"
        given = op.argument(4 if is_layer else 3, "eps")
        bias = op.argument(3, "bias") if is_layer else None
        if any(True for i in range(1, len(op.outputs)) for _ in self.flow.users(self._made(op, i))):
            return None
        gain, ops = self._gain_of(op, weight)
        plain = None if bias is None else self._gain_of(op, bias)[0]
        if bias is not None and (plain is None or (plain.slope, plain.offset) != (1.0, 0.0)):
            gain = None
        if gain is not None and plain is not None and plain.name == gain.name:
            gain = None
        name = plain.name if plain else None
        out: Value | None = self._made(op, 0)
        if weight is None and bias is None:  # what is multiplied and added by hand
            gain, name, behind, more = self._gain(self._made(op, 0))
            out, ops = behind, more if gain is not None else []
        elif gain is None:
            out = None
        eps = None if given is None else self._eps(op, float(given))
        return Norm(
            "layer" if is_layer else "rms",
            tuple(self.t.axes(x)[-len(shape) :]),
            self.flow.source(op, x),
            op,
            (op, *ops),
            eps,
            gain,
            name,
            self._where(op),
            out,
        )

    def _made(self, op: Op, number: int) -> Value:
        return self.flow.made(op, number)

    def _square(self, op: Op) -> _Square | None:
        """From `mean` or `var`: the mean of squares that it gives, if it gives one."""
        keeps = op.argument(2, "keepdim", False)
        if not keeps or not isinstance(op.args[0], Tensor):
            return None
        if op.name != "mean":
            if op.kwargs.get("correction") != 0:
                return None
            x = self.flow.source(op, op.args[0])
            subs = self._centred(x, _dims(op))
            return _Square("layer", x, self._made(op, 0), [op, *subs.values()], tuple(subs))
        root = self.flow.source(op, op.args[0])
        power = self.flow.maker.get(root)
        if power is None or self.flow.only_user(root) is not op:
            return None
        base = self._squared(power)
        if base is None:
            return None
        sub = self.flow.maker.get(base)
        centred = None if sub is None else self._minus_mean(sub, _dims(op))
        ops = [op, power]
        if centred is None:
            return _Square("rms", base, self._made(op, 0), ops, (base,))
        subs = self._centred(centred, _dims(op))
        return _Square("layer", centred, self._made(op, 0), [*ops, *subs.values()], tuple(subs))

    def _squared(self, op: Op) -> Value | None:
        if op.name == "pow" and op.args[1] == 2:
            return self.flow.source(op, op.args[0])
        if op.name == "mul" and len(op.tensors()) == 2:
            left, right = (self.flow.source(op, x) for x in op.tensors())
            return left if left == right else None
        return None

    def _minus_mean(self, op: Op, dims: set[int]) -> Value | None:
        """x, if this is x - mean(x) over these dimensions."""
        if op.name != "sub" or len(op.tensors()) != 2 or op.kwargs:
            return None
        x, mean = (self.flow.source(op, a) for a in op.args[:2])
        made = self.flow.maker.get(mean)
        if made is None or made.name not in ("mean", "var_mean") or _dims(made) != dims:
            return None
        if made.name == "var_mean" and mean != self._made(made, 1):
            return None
        return x if self.flow.source(made, made.args[0]) == x else None

    def _centred(self, x: Value, dims: set[int]) -> dict[Value, Op]:
        """All x - mean(x) and the means: value -> operation; nothing if one is used elsewhere."""
        found: dict[Value, Op] = {}
        for op in self.flow.users(x):
            if self._minus_mean(op, dims) == x:
                found[self._made(op, 0)] = op
        for sub in list(found.values()):
            mean = self.flow.source(sub, sub.args[1])
            subs = {id(op) for op in found.values()}
            if any(id(user) not in subs for user in self.flow.users(mean)):
                return {}
            found[mean] = self.flow.maker[mean]
        return found

    def _rest(self, root: Op, square: _Square) -> Norm | None:
        """Behind the mean of squares: + eps, a root, and what it multiplies or divides."""
        value, ops, eps = square.value, list(square.ops), None
        op = self.flow.only_user(value)
        if op is not None and op.name in ("add", "add_"):
            given = op.args[1]
            if isinstance(given, Tensor) or op.kwargs.get("alpha", 1) != 1:
                return None
            eps = self._eps(op, float(given))
            ops, value = [*ops, op], self._made(op, 0)
            op = self.flow.only_user(value)
        inverse = op is not None and (op.name == "rsqrt" or _power(op) == -0.5)
        if op is None or not (inverse or op.name == "sqrt" or _power(op) == 0.5):
            return None
        ops, value = [*ops, op], self._made(op, 0)
        last = self.flow.only_user(value)
        if last is not None and last.name == "reciprocal" and not inverse:
            ops, value, inverse = [*ops, last], self._made(last, 0), True
            last = self.flow.only_user(value)
        if last is None or last.name != ("mul" if inverse else "div") or len(last.tensors()) != 2:
            return None
        given_to = [self.flow.source(last, x) for x in last.args[:2]]
        if not inverse and given_to[1] != value:
            return None
        other = given_to[1] if given_to[0] == value else given_to[0]
        if other not in square.centred or not self._used_inside(square, [*ops, last]):
            return None
        gain, bias, out, behind = self._gain(self._made(last, 0))
        return Norm(
            square.kind,
            tuple(self.t.axes(root.args[0])[d] for d in sorted(_dims(root))),
            square.x,
            last,
            (*ops, last, *behind),
            eps,
            gain,
            bias,
            self._where(root),
            out,
        )

    def _used_inside(self, square: _Square, ops: Sequence[Op]) -> bool:
        inside = {id(op) for op in ops}
        values = square.centred if square.kind == "layer" else ()
        return all(id(user) in inside for value in values for user in self.flow.users(value))

    def _gain(self, value: Value) -> tuple[Gain | None, str | None, Value | None, list[Op]]:
        """What multiplies the normalised channels, what is then added, and what comes out."""
        muls = list(self.flow.users(value))
        if not muls or any(op.name != "mul" or len(op.tensors()) != 2 for op in muls):
            return None, None, value, []
        gains, ops = set(), list(muls)
        for op in muls:
            other = op.args[0] if self.flow.source(op, op.args[1]) == value else op.args[1]
            gain, made_by = self._gain_of(op, other)
            gains.add(gain)
            ops += made_by
        gain = gains.pop() if len(gains) == 1 else None
        if gain is None or len(muls) > 1:
            return gain, None, None, ops
        out = self._made(muls[0], 0)
        add = self.flow.only_user(out)
        if add is not None and add.name == "add" and len(add.tensors()) == 2:
            for x in add.args[:2]:
                bias, made_by = self._gain_of(add, x)
                plain = bias is not None and (bias.slope, bias.offset) == (1.0, 0.0)
                if bias is not None and plain and bias.name != gain.name:
                    return gain, bias.name, self._made(add, 0), [*ops, add, *made_by]
        return gain, None, out, ops

    def _gain_of(self, op: Op, x: Tensor | None) -> tuple[Gain | None, list[Op]]:
        """The parameter that an argument holds, through moves, multiples and sums with numbers."""
        if x is None:
            return None, []
        value, slope, offset, ops = self.flow.given(op, x), 1.0, 0.0, []
        while (made := self.flow.maker.get(value)) is not None:
            first, number = made.args[0], made.argument(1, "other")
            if made.name in ("add", "mul") and isinstance(number, int | float) and not made.kwargs:
                slope, offset = (
                    (slope, offset + slope * number) if made.name == "add" else
                    (slope * number, offset)
                )  # fmt: skip
                ops.append(made)
            elif made.name not in _MOVES:
                return None, []
            value = self.flow.given(made, first)
            x = first
        name = self.t.origin(x) if isinstance(x, Tensor) else None
        return (None, []) if name is None or not slope else (Gain(name, slope, offset), ops)

    def _eps(self, op: Op, value: float) -> Eps:
        """The number and the attribute of an enclosing module that holds it, found by value."""
        dtype = op.outputs[0].dtype
        least = torch.finfo(dtype).eps if dtype.is_floating_point else 0.0
        for module in reversed(op.path[-3:]):
            likely = sorted(module.__dict__.items(), key=lambda item: "eps" not in item[0])
            for name, held in likely:  # of several with this value
                if isinstance(held, float) and value in (held, single(held)):
                    path = self.paths.get(id(module))
                    if path is not None:
                        return Eps(value, op, least, path, name, held)
        return Eps(value, op, least, None)

    def _where(self, op: Op) -> str:
        return self.paths.get(id(op.path[-1]), "") if op.path else ""


_ROOTS = ("native_layer_norm", "_fused_rms_norm", "mean", "var", "var_mean")


def single(number: float) -> float:
    """A number rounded to float32, as torch's own RMSNorm passes it on."""
    return float(struct.unpack("f", struct.pack("f", number))[0])


def _dims(op: Op) -> set[int]:
    dims: Any = op.argument(1, "dim")
    rank = op.args[0].dim()
    if dims is None or dims == []:
        return set(range(rank))
    return {d % rank for d in ([dims] if isinstance(dims, int) else dims)}


def _power(op: Op) -> float | None:
    return float(op.args[1]) if op.name == "pow" and not isinstance(op.args[1], Tensor) else None


def of_leaf(norms: Sequence[Norm], leaf: Axis) -> Iterator[Norm]:
    """Those that average over this leaf."""
    for norm in norms:
        if any(part is leaf for axis in norm.axes for part in leaves(axis)):
            yield norm
