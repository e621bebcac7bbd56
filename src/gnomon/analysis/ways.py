"""The way back from a product of activations to the weights that write its sides.

It goes through operations that pass signs and sums, and is lost where anything else stands.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor

from gnomon.analysis.scalings import SCALES, factor_of, rounds
from gnomon.axes import Axis, leaves, resolve
from gnomon.ops.context import Context, Op
from gnomon.ops.names import COPIES, FACTORS, PICKS, RESHAPES, SPLITS, SQUEEZES, TRANSPOSES, ZEROS

Cut = tuple[Axis, int, int]  # positions [start, stop) of an axis

_MOVES = frozenset(
    (
        *(*RESHAPES, *TRANSPOSES, *SQUEEZES, *COPIES),
        *"expand repeat neg native_dropout dropout index index_select".split(),
    )
)
_ADDS = frozenset(("add", "sub"))
_JOINS = frozenset(("cat", "stack"))
_CUTS = frozenset((*PICKS, "slice", *SPLITS))
_PRODUCTS = FACTORS.keys() - {"dot"}  # which leaves no side to come from
_NORMS = {"native_layer_norm": 2, "_fused_rms_norm": 2}  # where their gains and biases stand
_MOST_STEPS = 4000


class Lost(Exception):
    """The way back to the weights ends at something that is not a sum of rows of weights."""


def positions(axis: Axis, cuts: Sequence[Cut], only: Axis | None = None) -> Tensor:
    """Which positions of an axis lie inside all cuts; those of one leaf alone, if it is given."""
    axis = resolve(axis)
    if axis.kind is None:
        mask = torch.full((axis.size,), only is None or axis is only)
    elif axis.kind == "sum":
        mask = torch.cat([positions(part, cuts, only) for part in axis.parts])
    else:
        mask = torch.ones(1, dtype=torch.bool)
        if only is not None:
            mask = torch.zeros(1, dtype=torch.bool)
        for part in axis.parts:
            inner = positions(part, cuts, only)
            both = mask[:, None] | inner if only is not None else mask[:, None] & inner
            mask = both.reshape(-1)
    for cut, start, stop in cuts:
        if resolve(cut) is axis:
            at = torch.arange(axis.size)
            mask = mask & (at >= start) & (at < stop)
    return mask


class Ways:
    """One tape, to be followed backwards."""

    def __init__(self, t: Context, ops: Sequence[Op]) -> None:
        self.t, self.ops = t, ops
        self._made: dict[int, list[int]] = defaultdict(list)
        self._used: dict[int, list[int]] = defaultdict(list)
        self._leaves: dict[Axis, frozenset[Axis]] = {}
        self._tables: dict[int, bool] = {}
        for i, op in enumerate(ops):
            for output in op.outputs:
                self._made[id(output)].append(i)
            for tensor in op.tensors():
                self._used[id(tensor)].append(i)

    def holds(self, tensor: Tensor, leaf: Axis) -> list[int]:
        """The dimensions of a tensor that a leaf is part of."""
        return [d for d, a in enumerate(self.t.axes(tensor)) if leaf in self._leaves_of(a)]

    def _leaves_of(self, axis: Axis) -> frozenset[Axis]:
        axis = resolve(axis)
        if axis not in self._leaves:
            self._leaves[axis] = frozenset(leaves(axis))
        return self._leaves[axis]

    @cached_property
    def _places(self) -> dict[Axis, list[int]]:
        """Per leaf the operations that have arguments which hold it, for all leaves at once."""
        found: dict[Axis, list[int]] = defaultdict(list)
        for at, op in enumerate(self.ops):
            axes = {resolve(axis) for x in op.tensors() for axis in self.t.axes(x)}
            for leaf in {leaf for axis in axes for leaf in self._leaves_of(axis)}:
                found[leaf].append(at)
        return found

    def touching(self, leaf: Axis) -> Iterator[tuple[int, Op, list[Tensor]]]:
        """The operations with arguments that hold a leaf: where, which, and these arguments."""
        for at in self._places.get(leaf, ()):
            yield at, self.ops[at], self._arguments(self.ops[at], leaf)

    def _arguments(self, op: Op, leaf: Axis) -> list[Tensor]:
        tensors = list({id(x): x for x in op.tensors()}.values())
        found = [x for x in tensors if self.holds(x, leaf)]
        mutable = op.func._schema.is_mutable and torch.Tag.inplace_view not in op.func.tags
        if found and mutable and not (op.name in SCALES and self._others_lack(op, leaf)):
            raise Lost(f"{op.name} writes on it in place")
        return found

    def passes(self, op: Op, tensor: Tensor, leaf: Axis) -> bool:
        """Whether an operation lets the channels of an argument through, linearly."""
        if not any(self.holds(y, leaf) for y in op.outputs):
            return False
        try:
            return any(x is tensor for x, _, _ in self._before(op, 0, leaf, True))
        except Lost:
            return False

    def leaves_it(self, op: Op, tensor: Tensor, leaf: Axis) -> bool:
        """Whether nothing of what wrote a leaf goes on here: it is summed over, or cut off."""
        if any(self.holds(y, leaf) for y in op.outputs):
            return False
        is_parameter = self.t.origin(tensor) is not None
        return op.name in _CUTS or (is_parameter and op.name in (*_PRODUCTS, "convolution"))

    def writers(
        self,
        tensor: Tensor,
        at: int,
        leaf: Axis,
        *,
        strict: bool,
        chain: list[Op] | None = None,
        gains: bool = False,
    ) -> Iterator[tuple[str, int, Tensor]]:
        """The parameters that wrote a leaf's channels: name, dimension, which positions.

        strict: raise Lost where anything but sums and signs are passed; else stop there.
        chain: gathers the operations on the way that scale all of it.
        gains: stop at parameters that multiply the channels one by one, as those of norms do.
        """
        waiting: list[tuple[Tensor, int, tuple[Cut, ...], bool]] = [(tensor, at, (), True)]
        steps = 0
        while waiting:
            x, before, cuts, whole = waiting.pop()
            steps += 1
            if steps > _MOST_STEPS:
                raise Lost("too long a way to the weights")
            made = [i for i in self._made[id(x)] if i < before]
            if not made:
                name = self.t.origin(x)
                if name is None or not self.t.is_owned(x):
                    if strict:
                        raise Lost("a constant or an input is one side")
                    continue
                dims = self.holds(x, leaf)
                if len(dims) != 1 and strict:
                    raise Lost(f"'{name}' holds the axis twice")
                for dim in dims:
                    yield name, dim, positions(self.t.dims[name][dim], cuts)
                continue
            op = self.ops[made[-1]]
            index = next(i for i, y in enumerate(op.outputs) if y is x)
            if chain is not None and whole and op.name in SCALES and factor_of(op) is not None:
                chain.append(op)
            own = self.gains(op, leaf) if gains else []
            for name in own:
                for dim in self._holding(name, leaf):
                    yield name, dim, positions(self.t.dims[name][dim], cuts)
            if own and strict:
                continue
            try:
                sources = list(self._before(op, index, leaf, strict))
            except Lost:
                if strict:
                    raise
                continue
            for source, cut, alone in sources:
                waiting.append((source, made[-1], (*cuts, *cut), whole and alone))

    def gains(self, op: Op, leaf: Axis) -> list[str]:
        """The parameters with which an operation multiplies, or adds to, normed channels."""
        if op.name == "mul":
            several = op.tensors()
        elif op.name in _NORMS:
            several = [x for x in op.args[_NORMS[op.name] :] if isinstance(x, Tensor)]
        else:
            return []
        names = [self.t.origin(x) for x in several if self.holds(x, leaf)]
        return [n for n in names if n is not None and len(self._holding(n, leaf)) == 1]

    def _holding(self, name: str, leaf: Axis) -> list[int]:
        return [d for d, axis in enumerate(self.t.dims[name]) if leaf in leaves(axis)]

    def _before(
        self, op: Op, index: int, leaf: Axis, strict: bool
    ) -> list[tuple[Tensor, tuple[Cut, ...], bool]]:
        """Where an output's channels come from: argument, cut, whether it is all of the output."""
        name = op.name
        x: Tensor = op.args[0] if op.args else op.outputs[0]
        if name in ZEROS:
            return []
        if name in _MOVES:
            return [(x, (), True)]
        if name in _CUTS:
            return [(x, self._cut(op, index), True)]
        if name == "constant_pad_nd" and not op.argument(2, "value", 0):
            return [(x, (), True)]
        if name == "mul" and strict and not self._others_lack(op, leaf):
            signals = [y for y in op.tensors() if not self._is_table(y)]
            if len(signals) != 1:
                raise Lost("two activations, or one and a computed gain, are multiplied on the way")
            return [(signals[0], (), False)]
        if rounds(op):
            raise Lost(f"{name} rounds on the way")
        if name in SCALES and self._others_lack(op, leaf):
            holding = [y for y in op.tensors() if self.holds(y, leaf)]
            if name.startswith("div") and holding and holding[0] is not x:
                raise Lost(f"{name} by it")
            return [(y, (), True) for y in holding]
        if name in _ADDS or name in _JOINS:
            addends = op.tensors()
            holding = [y for y in addends if self.holds(y, leaf)]
            constant = name in _ADDS and any(type(a) in (int, float) and a for a in op.args)
            lacking = name in _ADDS and len(holding) < len(addends)  # joined, it is beside them
            if strict and (lacking or constant):
                raise Lost(f"{name} of a constant")
            return [(y, (), False) for y in holding]
        if name in _PRODUCTS:
            return self._operands(op, leaf, strict)
        if name == "convolution" and op.args[8] == 1:
            return [(y, (), False) for y in op.args[1:3] if y is not None]
        if name == "embedding":
            return [(x, (), False)]
        raise Lost(f"{name} stands between the weights and the product")

    def _operands(
        self, op: Op, leaf: Axis, strict: bool
    ) -> list[tuple[Tensor, tuple[Cut, ...], bool]]:
        tensors = op.tensors()
        left, right = tensors[-2:]
        free: list[tuple[Tensor, Sequence[int]]] = [(left, range(left.dim() - 1))]
        if right.dim() > 1:
            free.append((right, (*range(right.dim() - 2), right.dim() - 1)))
        found: list[tuple[Tensor, tuple[Cut, ...], bool]]
        found = [(y, (), False) for y, dims in free if set(self.holds(y, leaf)) & set(dims)]
        if len(found) > 1 and strict:
            raise Lost(f"{op.name} holds the axis on both sides")
        if len(tensors) == 3:
            if self.holds(tensors[0], leaf):
                found.append((tensors[0], (), False))
            elif strict:
                raise Lost(f"{op.name} adds a constant")
        return found

    def _is_table(self, tensor: Tensor) -> bool:
        """Whether a tensor is made of buffers, positions and constants alone: rotary angles."""
        if id(tensor) not in self._tables:
            self._tables[id(tensor)] = self._has_no_parameter(tensor)
        return self._tables[id(tensor)]

    def _has_no_parameter(self, tensor: Tensor) -> bool:
        waiting, seen = [tensor], set[int]()
        while waiting:
            x = waiting.pop()
            if id(x) in seen:
                continue
            seen.add(id(x))
            if isinstance(x, torch.nn.Parameter) or len(seen) > 100:
                return False
            waiting += [y for i in self._made[id(x)] for y in self.ops[i].tensors()]
        return True

    def _others_lack(self, op: Op, leaf: Axis) -> bool:
        return sum(bool(self.holds(y, leaf)) for y in op.tensors()) <= 1

    def _cut(self, op: Op, index: int) -> tuple[Cut, ...]:
        x = op.args[0]
        axes = self.t.axes(x)
        slot = 2 if "split" in op.name or op.name == "unsafe_chunk" or op.name == "chunk" else 1
        dim = (op.argument(slot, "dim", 0) or 0) % len(axes)
        size = resolve(axes[dim]).size
        if op.name in ("select", "unbind"):
            at = op.argument(2, "index") % size if op.name == "select" else index
            return ((axes[dim], at, at + 1),)
        made = self.t.made(op)
        if op.name == "slice":
            start = op.argument(2, "start") or 0
            start = min(max(start + size if start < 0 else start, 0), size)
            return ((axes[dim], start, start + resolve(made[0][dim]).size),)
        sizes = [resolve(axes_of[dim]).size for axes_of in made]
        return ((axes[dim], sum(sizes[:index]), sum(sizes[: index + 1])),)

    def scales_before(self, tensor: Tensor, at: int, leaf: Axis) -> list[Op]:
        """The operations that scale all of the other side, as far as it can be followed."""
        chain: list[Op] = []
        try:
            for _ in self.writers(tensor, at, leaf, strict=True, chain=chain):
                pass
        except Lost:
            pass
        return chain

    def scales_after(self, op: Op) -> list[Op]:
        """The operations that scale the product before anything else happens to it."""
        chain: list[Op] = []
        while op.outputs:
            users = [i for i in self._used[id(op.outputs[0])] if self.ops[i] is not op]
            if len(users) != 1:
                break
            op = self.ops[users[0]]
            if op.name in SCALES and factor_of(op) is not None:
                chain.append(op)
            elif op.name not in _MOVES:
                break
        return chain
