"""Axes: what a dimension of a tensor is made of, found by structure and never by size alone.

An axis is a leaf, a product of axes (row-major: a view, heads, groups), or a sum of axes (a
concatenation). Two dimensions that must keep one common width are *unified*; a reshape or a
split *refines* an axis into parts. What is left at the end are the leaves: one per set of
channels that can grow on its own.

    conv -> flatten -> linear     weight dim 1 = [channels x height*width]
    cat(a, b) -> conv             weight dim 1 = (a + b)
    x.chunk(2), halves added      weight dim 0 = (h + h)
    grouped convolution           channels = [groups x inside]
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal


class Misfit(Exception):
    """Two axes, or an axis and a list of sizes, that cannot be brought together."""


class Axis:
    """One axis: union-find node (`link`) and, once refined, a product or a sum of parts."""

    __slots__ = ("kind", "link", "parts", "size")

    def __init__(
        self,
        size: int,
        kind: Literal["product", "sum"] | None = None,
        parts: Iterable[Axis] = (),
    ) -> None:
        self.size = size
        self.kind = kind
        self.parts = tuple(parts)
        self.link: Axis | None = None

    def __repr__(self) -> str:
        axis = resolve(self)
        if axis.kind is None:
            return str(axis.size)
        joint = " x " if axis.kind == "product" else " + "
        inner = joint.join(map(repr, factors(axis) if axis.kind == "product" else segments(axis)))
        return f"[{inner}]" if axis.kind == "product" else f"({inner})"


def resolve(axis: Axis) -> Axis:
    """The representative of everything `axis` was unified with."""
    while axis.link is not None:
        if axis.link.link is not None:
            axis.link = axis.link.link  # path halving keeps long chains short
        axis = axis.link
    return axis


def factors(axis: Axis) -> list[Axis]:
    """The factors of an axis, outermost first; none for an axis of size 1."""
    return [part for part in _below(axis, {"product"}) if part.size != 1]


def segments(axis: Axis) -> list[Axis]:
    """The segments of an axis, in order; none for an axis of size 0."""
    return [part for part in _below(axis, {"sum"}) if part.size]


def leaves(axis: Axis) -> list[Axis]:
    """The leaves below an axis, in order, with repetition."""
    return list(_below(axis, {"sum", "product"}))


def _below(axis: Axis, kinds: set[str]) -> Iterator[Axis]:
    """The first axes below that are of no such kind (a loop: slices of slices nest deeply)."""
    waiting = [axis]
    while waiting:
        axis = resolve(waiting.pop())
        if axis.kind in kinds:
            waiting += reversed(axis.parts)
        else:
            yield axis


def product(axes: Iterable[Axis]) -> Axis:
    """The row-major product of axes."""
    flat = [factor for axis in axes for factor in factors(axis)]
    if len(flat) == 1:
        return flat[0]
    return Axis(prod(f.size for f in flat), "product", flat) if flat else Axis(1)


def concatenation(axes: Iterable[Axis]) -> Axis:
    """The sum of axes, one after the other."""
    flat = [segment for axis in axes for segment in segments(axis)]
    if len(flat) == 1:
        return flat[0]
    return Axis(sum(resolve(s).size for s in flat), "sum", flat) if flat else Axis(0)


def split(axis: Axis, sizes: Sequence[int]) -> list[Axis]:
    """The consecutive segments of `axis` that have these sizes, refining it where needed.

    Raises Misfit if a boundary cuts through a product.
    """
    axis = resolve(axis)
    if sum(sizes) != axis.size:
        raise Misfit(f"segments {list(sizes)} of an axis of {axis.size}")
    if len(sizes) == 1:
        return [axis]
    if axis.kind is None:
        parts = [Axis(size) for size in sizes]
        axis.kind, axis.parts = "sum", tuple(part for part in parts if part.size)
        return parts
    if axis.kind == "sum":
        return _split_sum(axis, sizes)
    outer, *inner = factors(axis)
    block = prod(resolve(f).size for f in inner)
    if any(size % block for size in sizes):
        raise Misfit(f"segments {list(sizes)} cut through {axis!r}")
    return [product([part, *inner]) for part in split(outer, [size // block for size in sizes])]


def _split_sum(axis: Axis, sizes: Sequence[int]) -> list[Axis]:
    rest, found = segments(axis), []
    for size in sizes:
        taken: list[Axis] = []
        while size:
            first = resolve(rest[0])
            if first.size <= size:
                taken.append(rest.pop(0))
                size -= first.size
            else:
                head, tail = split(first, [size, first.size - size])
                rest[0:1] = segments(tail)
                taken.append(head)
                size = 0
        found.append(concatenation(taken))
    return found


def divide(axis: Axis, outer: int) -> tuple[Axis, Axis]:
    """`axis` as (an outer axis of this size, an inner one), refining it where needed."""
    axis = resolve(axis)
    if outer < 1 or axis.size % outer:
        raise Misfit(f"{outer} does not divide {axis!r}")
    if outer == 1:
        return Axis(1), axis
    if outer == axis.size:
        return axis, Axis(1)
    if axis.kind == "product":
        taken, rest = _take(factors(axis), outer)
        return product(taken), product(rest)
    pair = Axis(outer), Axis(axis.size // outer)
    unify(axis, Axis(axis.size, "product", pair))
    return pair


def _take(axes: Sequence[Axis], size: int) -> tuple[list[Axis], list[Axis]]:
    """Leading factors whose product is `size`, and what is left; the last one may be divided."""
    rest, taken = list(axes), []
    while size > 1:
        first = resolve(rest[0])
        if size % first.size == 0:
            taken.append(rest.pop(0))
            size //= first.size
        elif first.size % size == 0:
            outer, inner = divide(first, size)
            taken += factors(outer)
            rest[0:1] = factors(inner)
            size = 1
        else:
            raise Misfit(f"a factor {size} cuts through {first!r}")
    return taken, rest


def unify(left: Axis, right: Axis) -> None:
    """Make two axes one. Raises Misfit if they cannot be; what was joined before stays joined."""
    left, right = resolve(left), resolve(right)
    if left is right:
        return
    if left.size != right.size:
        raise Misfit(f"{left!r} meets {right!r}")
    if left.size == 1:
        return
    if left.kind is None:
        left.link = right
        return
    if right.kind is None:
        right.link = left
        return
    if left.kind == "product" and right.kind == "product":
        _unify_products(left, right)
    else:
        if left.kind != "sum":
            left, right = right, left
        _refuse_shifted(left, right)
        parts = segments(left)
        for a, b in zip(parts, split(right, [resolve(p).size for p in parts]), strict=True):
            unify(a, b)
    left, right = resolve(left), resolve(right)
    if left is not right:
        left.link = right


def _refuse_shifted(left: Axis, right: Axis) -> None:
    """An axis meets itself at another offset (x[1:] - x[:-1]): all of it would be tied to all."""
    seen: list[dict[Axis, set[int]]] = []
    for axis in (left, right):
        start = 0
        offsets: dict[Axis, set[int]] = {}
        for part in segments(axis):
            if resolve(part).size > 1:
                offsets.setdefault(resolve(part), set()).add(start)
            start += resolve(part).size
        seen.append(offsets)
    for part, starts in seen[0].items():
        if seen[1].get(part, starts) != starts:
            raise Misfit("an axis meets itself, shifted")


def _unify_products(left: Axis, right: Axis) -> None:
    a, b = factors(left), factors(right)
    while a:
        first, second = resolve(a[0]), resolve(b[0])
        if first.size == second.size:
            unify(first, second)
            a.pop(0)
            b.pop(0)
        elif first.size > second.size:
            a[0:1] = [f for part in divide(first, second.size) for f in factors(part)]
        else:
            b[0:1] = [f for part in divide(second, first.size) for f in factors(part)]
        a = [f for axis in a for f in factors(axis)]
        b = [f for axis in b for f in factors(axis)]


def regroup(dims: Sequence[Axis], sizes: Sequence[int]) -> list[Axis]:
    """The axes of a view: `dims` read in row-major order under another shape.

    A dimension that stays whole stays the same object: of a square weight whose two axes became one
    it says which of the two it is. Raises Misfit if the new shape cuts across an axis.
    """
    rest: list[Axis] = []
    found: list[Axis] = []
    for axis in dims:
        rest += factors(axis) if resolve(axis).kind == "product" or axis.size == 1 else [axis]
    for size in sizes:
        taken, rest = _take(rest, size)
        found.append(taken[0] if len(taken) == 1 else product(taken))
    return found


@dataclass(frozen=True)
class Form:
    """A frozen axis: the same tree with names for the leaves that grow, as plans store it.

    A leaf that does not grow has the name "". `against` is not 0 where the channels are one side of
    a product of activations and are read against the other: they are filled as a reader's columns
    are, and multiplied by this number (see `gnomon.analysis.links`).
    """

    kind: Literal["leaf", "product", "sum"]
    size: int
    name: str = ""
    parts: tuple[Form, ...] = ()
    against: float = 0.0

    @property
    def is_against(self) -> bool:
        """Whether some channels below are read against the other side of a product."""
        return self.against != 0 or any(part.is_against for part in self.parts)

    @property
    def factors_against(self) -> dict[str, float]:
        """The leaves below that are read against a product, with the factor of each."""
        found = {self.name: self.against} if self.against else {}
        for part in self.parts:
            found |= part.factors_against
        return found

    def names(self) -> set[str]:
        """The names of the growing leaves below."""
        return ({self.name} - {""}).union(*(part.names() for part in self.parts))

    def grown(self, sizes: Mapping[str, int]) -> int:
        """The size once every named leaf has the size given here."""
        if self.kind == "leaf":
            return sizes.get(self.name, self.size)
        combine = prod if self.kind == "product" else sum
        return combine(part.grown(sizes) for part in self.parts)

    def __str__(self) -> str:
        if self.kind == "leaf":
            return f"{self.name}:{self.size}" if self.name else str(self.size)
        joint = " x " if self.kind == "product" else " + "
        return "(" + joint.join(map(str, self.parts)) + ")"


def form(axis: Axis, names: Mapping[Axis, str]) -> Form:
    """Freeze an axis; parts in which nothing is named become one anonymous leaf."""
    axis = resolve(axis)
    if axis.kind is None:
        return Form("leaf", axis.size, names.get(axis, ""))
    children = factors(axis) if axis.kind == "product" else segments(axis)
    parts = tuple(form(child, names) for child in children)
    if not any(part.names() for part in parts):
        return Form("leaf", axis.size)
    return Form(axis.kind, axis.size, "", parts)
