"""What an axis of attention is called: heads, head dimension, query-key and value dimension."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence

from torch import Tensor

from gnomon.axes import Axis, leaves
from gnomon.ops.context import Context, Op
from gnomon.ops.names import COPIES

_SOFTMAX = ("_softmax", "_safe_softmax")
_MATRIX = 2
# What weights of attention are weights behind: they are moved, but also scaled and masked.
_CARRIES = frozenset(
    (
        *COPIES,
        *"view _unsafe_view reshape unsqueeze squeeze expand transpose permute".split(),
        *"mul div where masked_fill nan_to_num native_dropout bernoulli_ dropout".split(),
    )
)


def kinds(t: Context, tapes: Iterable[Sequence[Op]], linked: Container[Axis]) -> dict[Axis, str]:
    """The leaves that are axes of attention: a softmax of products, multiplied with values."""
    found: dict[Axis, str] = {}
    for ops in tapes:
        weighted = _weighted(ops)
        for op in ops:
            product = t.product_of.get(id(op))
            if product is None or any(_is_weight(t, x) for x in (product.left, product.right)):
                continue
            left, right = t.axes(product.left), t.axes(product.right)
            if id(product.left) in weighted:
                for leaf in leaves(right[-1]):
                    both = leaf in linked
                    found[leaf] = "head dimension" if both else "value dimension"
            for leaf in leaves(product.axis):
                if leaf in linked:
                    found.setdefault(leaf, "query-key dimension")
                    for axis in (*left[:-2], *right[:-2]):
                        for head in leaves(axis):
                            found.setdefault(head, "heads")
    return found


def _is_weight(t: Context, x: Tensor) -> bool:
    """Whether a factor is a matrix computed from parameters: a layer, and no attention."""
    return t.is_constant(x) and len(t.axes(x)) == _MATRIX


def grouped(heads: Mapping[str, frozenset[str]]) -> dict[str, str]:
    """Heads by name and the tensors they are part of: where queries have more heads than keys."""
    found: dict[str, str] = {}
    for name, tensors in heads.items():
        for other, more in heads.items():
            if tensors < more:
                found |= {name: "query heads of each group", other: "key-value heads"}
    return found


def _weighted(ops: Sequence[Op]) -> set[int]:
    """The tensors that hold softmax weights, perhaps masked, scaled or seen otherwise."""
    found: set[int] = set()
    for op in ops:
        tensors: list[Tensor] = op.tensors()
        from_weights = op.name in _CARRIES and any(id(x) in found for x in tensors)
        if op.name in _SOFTMAX or from_weights:
            found |= {id(y) for y in op.outputs}
    return found
