"""Products of two activations: which weights write each side, and where the product is scaled.

A sum of products `q . k` over an axis keeps its value if one side carries the embedding E and the
other is read against it: Eq' Ek = diag(I, 0). The weights that write k then take the part of a
reader of that axis (`V' E = [V, 0]`, along their rows), and every rule fills them as it does any
reader: R2R makes q[a, a] and k[b, -b]. That holds where k comes to the product through operations
that pass signs and sums, and goes nowhere else. Here the tape is followed back from the product to
the weights; what cannot be followed is refused, with the operation's name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gnomon.axes import Axis, leaves, resolve
from gnomon.ops.context import Context, Op

Cut = tuple[Axis, int, int]  # positions [start, stop) of an axis

_MOVES = frozenset(
    "view _unsafe_view reshape unflatten _reshape_alias t t_ transpose transpose_ permute "
    "unsqueeze unsqueeze_ squeeze squeeze_ expand repeat clone alias detach _to_copy contiguous "
    "lift_fresh neg native_dropout dropout index index_select".split()
)
_SCALES = frozenset(("mul", "div", "mul_", "div_"))
_ADDS = frozenset(("add", "sub"))
_JOINS = frozenset(("cat", "stack"))
_CUTS = frozenset(
    "select unbind slice split chunk split_with_sizes unsafe_split unsafe_chunk "
    "unsafe_split_with_sizes".split()
)
_PRODUCTS = frozenset("mm bmm addmm baddbmm mv".split())
_ZEROS = frozenset(("zeros", "new_zeros", "zeros_like"))
_MOST_STEPS = 4000


class _Lost(Exception):
    """The way back to the weights ends at something that is not a sum of rows of weights."""


@dataclass(eq=False)
class Link:
    """What is known of one contracted leaf: the writers that are read against it, and scalings.

    read:   (tensor, dimension) -> which of its positions write the side that is read.
    chains: per product, the operations that multiply it by a number of the code.
    """

    read: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    chains: list[list[Op]] = field(default_factory=list)


def links(t: Context, tapes: Iterable[Sequence[Op]]) -> dict[Axis, Link]:
    """Per leaf that is summed over in products of two activations, how it can grow.

    A leaf that cannot is told so to the context.
    """
    contracted: dict[Axis, None] = {}
    owned = {leaf for axes in t.dims.values() for axis in axes for leaf in leaves(axis)}
    for product in t.products:
        contracted |= dict.fromkeys(a for a in leaves(product.axis) if a in owned)
    fixed = {a for e in t.events if e.kind in ("fixed", "mixed") for a in leaves(e.axis)}
    wanted = [leaf for leaf in contracted if leaf.size > 1 and leaf not in fixed]
    found: dict[Axis, Link] = {}
    if not wanted:
        return found
    ways = [_Ways(t, ops) for ops in tapes]
    for leaf in wanted:
        products = [p for p in t.products if leaf in leaves(p.axis)]
        problem = ""
        for side in ("right", "left"):
            try:
                link = _link(t, ways, leaf, side)
            except _Lost as lost:
                problem = problem or str(lost)
            else:
                found[leaf] = link
                break
        else:
            t.mixed_in(leaf, f"a product of two activations ({problem})", products[0].where)
    return found


def _link(t: Context, ways: Sequence[_Ways], leaf: Axis, side: str) -> Link:
    link, plain = Link(), dict[tuple[str, int], Tensor]()
    for way in ways:
        for at, op in enumerate(way.ops):
            for tensor in way.touching(op, leaf):
                product = t.product_of.get(id(op))
                sides = [] if product is None else product.sides(tensor)
                summed = product is not None and leaf in leaves(product.axis)
                if not summed and way.passes(op, tensor, leaf):
                    continue
                if product is not None and summed and sides == [side]:
                    chain: list[Op] = []
                    for name, dim, mask in way.writers(tensor, at, leaf, strict=True, chain=chain):
                        _join(link.read, (name, dim), mask)
                    chain += way.scales_before(product.other(tensor), at, leaf)
                    chain += way.scales_after(op)
                    link.chains.append(chain)
                elif not way.is_read(op, tensor, leaf):
                    for name, dim, mask in way.writers(tensor, at, leaf, strict=False):
                        _join(plain, (name, dim), mask)
    if not link.read:
        raise _Lost("nothing that can learn writes one side")
    for place, mask in link.read.items():
        own = positions(t.dims[place[0]][place[1]], [], only=leaf)
        if bool((mask & plain.get(place, torch.zeros_like(mask)) & own).any()):
            raise _Lost(f"'{place[0]}' writes both sides, or is used elsewhere too")
    return link


def only_on_one_side(t: Context, leaf: Axis, place: tuple[str, int], mask: Tensor) -> bool:
    """Whether all of a leaf's channels in a dimension are on the side that is read."""
    own = positions(t.dims[place[0]][place[1]], [], only=leaf)
    return bool((mask | ~own).all())


def _join(known: dict[tuple[str, int], Tensor], place: tuple[str, int], mask: Tensor) -> None:
    known[place] = known[place] | mask if place in known else mask


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


class _Ways:
    """One tape, to be followed backwards."""

    def __init__(self, t: Context, ops: Sequence[Op]) -> None:
        self.t, self.ops = t, ops
        self._made: dict[int, list[int]] = defaultdict(list)
        self._used: dict[int, list[int]] = defaultdict(list)
        self._touching: dict[Axis, list[int]] = defaultdict(list)
        self._leaves: dict[Axis, frozenset[Axis]] = {}
        for i, op in enumerate(ops):
            for output in op.outputs:
                self._made[id(output)].append(i)
            for tensor in op.tensors():
                self._used[id(tensor)].append(i)

    def holds(self, tensor: Tensor, leaf: Axis) -> list[int]:
        """The dimensions of a tensor that a leaf is part of."""
        found = []
        for dim, axis in enumerate(self.t.axes(tensor)):
            axis = resolve(axis)
            if axis not in self._leaves:
                self._leaves[axis] = frozenset(leaves(axis))
            if leaf in self._leaves[axis]:
                found.append(dim)
        return found

    def touching(self, op: Op, leaf: Axis) -> list[Tensor]:
        """The arguments that hold a leaf."""
        tensors = list({id(x): x for x in op.tensors()}.values())
        found = [x for x in tensors if self.holds(x, leaf)]
        mutable = op.func._schema.is_mutable and torch.Tag.inplace_view not in op.func.tags
        if found and mutable and not (op.name in _SCALES and self._others_lack(op, leaf)):
            raise _Lost(f"{op.name} writes on it in place")
        return found

    def passes(self, op: Op, tensor: Tensor, leaf: Axis) -> bool:
        """Whether an operation lets the channels of an argument through, linearly."""
        if not any(self.holds(y, leaf) for y in op.outputs):
            return False
        try:
            return any(x is tensor for x, _, _ in self._before(op, 0, leaf, True))
        except _Lost:
            return False

    def is_read(self, op: Op, tensor: Tensor, leaf: Axis) -> bool:
        """Whether a parameter is summed over the leaf here: it reads and writes nothing."""
        if self.t.origin(tensor) is None or op.name not in (*_PRODUCTS, "convolution"):
            return False
        return not any(self.holds(y, leaf) for y in op.outputs)

    def writers(
        self, tensor: Tensor, at: int, leaf: Axis, *, strict: bool, chain: list[Op] | None = None
    ) -> Iterator[tuple[str, int, Tensor]]:
        """The parameters that wrote a leaf's channels: name, dimension, which positions.

        strict: raise _Lost where anything but sums and signs are passed; else stop there.
        chain: gathers the operations on the way that scale all of it.
        """
        waiting: list[tuple[Tensor, int, tuple[Cut, ...], bool]] = [(tensor, at, (), True)]
        steps = 0
        while waiting:
            x, before, cuts, whole = waiting.pop()
            steps += 1
            if steps > _MOST_STEPS:
                raise _Lost("too long a way to the weights")
            made = [i for i in self._made[id(x)] if i < before]
            if not made:
                name = self.t.origin(x)
                if name is None or not self.t.is_owned(x):
                    if strict:
                        raise _Lost("a constant or an input is one side")
                    continue
                dims = self.holds(x, leaf)
                if len(dims) != 1 and strict:
                    raise _Lost(f"'{name}' holds the axis twice")
                for dim in dims:
                    yield name, dim, positions(self.t.dims[name][dim], cuts)
                continue
            op = self.ops[made[-1]]
            index = next(i for i, y in enumerate(op.outputs) if y is x)
            if chain is not None and whole and op.name in _SCALES and factor_of(op) is not None:
                chain.append(op)
            try:
                sources = list(self._before(op, index, leaf, strict))
            except _Lost:
                if strict:
                    raise
                continue
            for source, cut, alone in sources:
                waiting.append((source, made[-1], (*cuts, *cut), whole and alone))

    def _before(
        self, op: Op, index: int, leaf: Axis, strict: bool
    ) -> list[tuple[Tensor, tuple[Cut, ...], bool]]:
        """Where an output's channels come from: argument, cut, whether it is all of the output."""
        name = op.name
        x: Tensor = op.args[0] if op.args else op.outputs[0]
        if name in _ZEROS:
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
                raise _Lost("two activations are multiplied on the way")
            return [(signals[0], (), False)]
        if name in _SCALES and self._others_lack(op, leaf):
            holding = [y for y in op.tensors() if self.holds(y, leaf)]
            if name.startswith("div") and holding and holding[0] is not x:
                raise _Lost(f"{name} by it")
            return [(y, (), True) for y in holding]
        if name in _ADDS or name in _JOINS:
            addends = op.tensors()
            holding = [y for y in addends if self.holds(y, leaf)]
            constant = name in _ADDS and any(type(a) in (int, float) and a for a in op.args)
            if strict and (len(holding) < len(addends) or constant):
                raise _Lost(f"{name} of a constant")
            return [(y, (), False) for y in holding]
        if name in _PRODUCTS:
            return self._operands(op, leaf, strict)
        if name == "convolution" and op.args[8] == 1:
            return [(y, (), False) for y in op.args[1:3] if y is not None]
        if name == "embedding":
            return [(x, (), False)]
        raise _Lost(f"{name} stands between the weights and the product")

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
            raise _Lost(f"{op.name} holds the axis on both sides")
        if len(tensors) == 3:
            if self.holds(tensors[0], leaf):
                found.append((tensors[0], (), False))
            elif strict:
                raise _Lost(f"{op.name} adds a constant")
        return found

    def _is_table(self, tensor: Tensor) -> bool:
        """Whether a tensor is made of buffers, positions and constants alone: rotary angles."""
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
        except _Lost:
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
            if op.name in _SCALES and factor_of(op) is not None:
                chain.append(op)
            elif op.name not in _MOVES:
                break
        return chain


def factor_of(op: Op) -> float | None:
    """The one number that an operation multiplies or divides by, if that is all it does."""
    if op.name not in _SCALES:
        return None
    numbers = [a for a in op.args if type(a) in (int, float)]
    if len(op.tensors()) != 1 or len(numbers) != 1 or not numbers[0]:
        return None
    return float(numbers[0])


def scale_of(op: Op) -> float:
    """What a scaling operation multiplies by."""
    number = factor_of(op)
    assert number is not None
    return 1 / number if op.name.startswith("div") else number


def ratio(old: Sequence[Op], new: Sequence[float]) -> float:
    """By how much a chain of scalings multiplies more than it did."""
    found = 1.0
    for op, now in zip(old, new, strict=True):
        found *= now / scale_of(op)
    return found
