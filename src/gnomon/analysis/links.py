"""Products of two activations: which weights write each side, and where the product is scaled.

A sum of products `q . k` over an axis keeps its value if one side carries the embedding E and the
other is read against it: Eq' Ek = diag(I, 0). The weights that write k then take the part of a
reader of that axis (`V' E = [V, 0]`, along their rows), and every rule fills them as it does any
reader: R2R makes q[a, a] and k[b, -b]. That holds where k comes to the product through operations
that pass signs and sums (see `gnomon.analysis.ways`), and goes nowhere else. What cannot be
followed back to its weights is refused, with the operation's name.

Where a norm stands between (of queries and of keys, over the axis), all channels are copied equally
often, and the gain behind the norm is what is read against: it becomes shares that add up to it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gnomon.analysis.ways import Lost, Ways, positions
from gnomon.axes import Axis, leaves
from gnomon.ops.context import Context, Event, Op


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
    ways = [Ways(t, ops) for ops in tapes]
    for leaf in wanted:
        products = [p for p in t.products if leaf in leaves(p.axis)]
        problem, averaged = (
            "",
            any(e.kind == "uniform" and leaf in leaves(e.axis) for e in t.events),
        )
        for gains, side in itertools.product((False, True)[: 1 + averaged], ("right", "left")):
            try:
                link = _link(t, ways, leaf, side, gains=gains)
            except Lost as lost:
                problem = str(lost) if gains and side == "right" else problem or str(lost)
            else:
                found[leaf] = link
                if gains:
                    # zeros on both sides would stay zeros for ever, so copies are the one way
                    t.events.append(Event("uniform", leaf, _NORMED, products[0].where))
                break
        else:
            first = products[0]
            computed = t.is_constant(first.left) or t.is_constant(first.right)
            what = (
                "a weight computed from parameters" if computed else "a product of two activations"
            )
            t.mixed_in(leaf, f"{what} ({problem})", first.where)
    return found


_NORMED = "a product of normed queries and keys"


def _link(t: Context, ways: Sequence[Ways], leaf: Axis, side: str, *, gains: bool) -> Link:
    link, plain = Link(), dict[tuple[str, int], Tensor]()
    for way in ways:
        for at, op, holding in way.touching(leaf):
            for tensor in holding:
                product = t.product_of.get(id(op))
                sides = [] if product is None else product.sides(tensor)
                summed = product is not None and leaf in leaves(product.axis)
                if not summed and (way.passes(op, tensor, leaf) or (gains and way.gains(op, leaf))):
                    continue
                if product is not None and summed and sides == [side]:
                    chain: list[Op] = []
                    for name, dim, mask in way.writers(
                        tensor, at, leaf, strict=True, chain=chain, gains=gains
                    ):
                        _join(link.read, (name, dim), mask)
                    chain += way.scales_before(product.other(tensor), at, leaf)
                    chain += way.scales_after(op)
                    link.chains.append(chain)
                elif not way.leaves_it(op, tensor, leaf):
                    for name, dim, mask in way.writers(tensor, at, leaf, strict=False, gains=gains):
                        _join(plain, (name, dim), mask)
    if not link.read:
        raise Lost("nothing that can learn writes one side")
    for place, mask in link.read.items():
        own = positions(t.dims[place[0]][place[1]], [], only=leaf)
        if bool((mask & plain.get(place, torch.zeros_like(mask)) & own).any()):
            raise Lost(f"'{place[0]}' writes both sides, or is used elsewhere too")
    return link


def only_on_one_side(t: Context, leaf: Axis, place: tuple[str, int], mask: Tensor) -> bool:
    """Whether all of a leaf's channels in a dimension are on the side that is read."""
    own = positions(t.dims[place[0]][place[1]], [], only=leaf)
    return bool((mask | ~own).all())


def _join(known: dict[tuple[str, int], Tensor], place: tuple[str, int], mask: Tensor) -> None:
    known[place] = known[place] | mask if place in known else mask
