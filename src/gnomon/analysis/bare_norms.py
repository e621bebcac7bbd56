"""Norms without a gain: what their readers must take over when the norm gives another scale.

A norm over C' channels, of which C' - C carry nothing new, gives sqrt(C'/C) times what it gave.
With no gain to take that back, the weights that read it do:

    W norm(x)  =  (W sqrt(C/C')) norm(x')

which is possible if nothing but products with weights sees what the norm gives, and if these
weights read nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from gnomon.analysis.dataflow import Dataflow, Value
from gnomon.analysis.norms import Norm
from gnomon.axes import Axis, leaves
from gnomon.errors import CannotPreserve
from gnomon.ops.context import Context, Op
from gnomon.ops.names import CONVOLUTIONS, FACTORS, MOVES_OF_ONE
from gnomon.recording.tape import Recording

# Every output is followed, so what gives several may stand here too.
_MOVES = (*MOVES_OF_ONE, *"t unbind split split_with_sizes chunk flip roll".split())
_FACTORS = {**FACTORS, "linear": 0}


def reader_scales(
    t: Context, recordings: list[Recording], norms: Mapping[Norm, float], quiet: set[Axis]
) -> dict[str, float]:
    """What the weights that read these norms are multiplied by, per name.

    norms: the factor that takes back what each norm gives too much.   quiet: the growing leaves.
    Raises CannotPreserve if something else sees a norm, or if a weight reads something else.
    """
    found: dict[str, float] = {}
    products: set[int] = set()
    for recording in recordings:
        walk = _Walk(t, Dataflow(recording.ops))
        own = {id(op) for op in recording.ops}
        for norm, scale in ((n, s) for n, s in norms.items() if id(n.last) in own):
            if norm.out is None or norm.bias is not None:
                raise _refusal(norm, "something is multiplied with or added to what it gives")
            for op, name in walk.readers(norm, norm.out):
                if not any(leaf in quiet for a in t.dims[name] for leaf in leaves(a)):
                    raise _refusal(norm, f"'{name}', which reads it, does not grow")
                if found.setdefault(name, scale) != scale:
                    raise _refusal(norm, f"'{name}' reads norms over other channels too")
                products.add(id(op))
    _check_alone(t, recordings, found, products)
    return found


def _check_alone(
    t: Context, recordings: list[Recording], found: Mapping[str, float], products: set[int]
) -> None:
    """A weight can be multiplied by a number only if all its uses are such products."""
    for op in (op for recording in recordings for op in recording.ops if id(op) not in products):
        for name in {t.origin(x) for x in op.tensors()} & found.keys():
            if not any(t.origin(y) == name for y in op.outputs):
                raise CannotPreserve(
                    f"{op.name} uses '{name}' too, which reads a norm without a gain and would be "
                    f"multiplied by what the gain of one is: give that norm a gain of ones "
                    f"(elementwise_affine=True), or copy the weight. {_OTHER}"
                )


@dataclass(frozen=True)
class _Walk:
    t: Context
    flow: Dataflow

    def readers(self, norm: Norm, value: Value) -> Iterator[tuple[Op, str]]:
        """The products that read a value, moved or not, each with its weight."""
        for op in self.flow.users(value):
            name = self._weight(op, value)
            if name is not None:
                yield op, name
            elif op.name in _MOVES and self.flow.source(op, op.args[0]) == value:
                for i in range(len(op.outputs)):
                    yield from self.readers(norm, self.flow.made(op, i))
            else:
                raise _refusal(norm, f"{op.name} uses what it gives, not a product with a weight")

    def _weight(self, op: Op, value: Value) -> str | None:
        """The parameter of a product of which this value is the other factor, and nothing else."""
        if op.name in CONVOLUTIONS:
            factors: list[Tensor] = [op.args[0], op.args[1]]
        elif op.name in _FACTORS:
            first = _FACTORS[op.name]
            factors = list(op.args[first : first + 2])
        else:
            return None
        given = [x for x in op.tensors() if self.flow.source(op, x) == value]
        others = [x for x in factors if all(x is not y for y in given)]
        if len(others) != 1 or len(given) != 1 or not any(given[0] is x for x in factors):
            return None
        return self.t.origin(others[0])


def _refusal(norm: Norm, reason: str) -> CannotPreserve:
    return CannotPreserve(
        f"the norm in '{norm.where}' has no gain of its own that could make up for the channels "
        f"that carry nothing, and its readers cannot: {reason}. Give it a gain of ones "
        f"(elementwise_affine=True). {_OTHER}"
    )


_OTHER = "Net2Net() copies all channels equally often (by=2, 3, ...)"
