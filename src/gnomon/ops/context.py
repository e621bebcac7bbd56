"""What an op rule may say: which axes pass, which are tied, read, averaged, fixed or mixed.

A rule is a function of (context, op). It names the axes of the outputs (`give`), ties axes that
must keep one width (`tie`), and posts what it cannot let through. It never looks at a module's
class or name, and never compares sizes to guess.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from gnomon.axes import Axis, Misfit, resolve, unify

Role = Literal["write", "follow", "read"]
Fill = Literal["draw", "mean", "statistic", "zero", "copied"]
Kind = Literal["mixed", "fixed", "uniform", "zero"]

_LISTS = (list, tuple)
_NESTED = (list, tuple, dict)


@dataclass(frozen=True, eq=False, slots=True)
class Op:
    """One recorded ATen call: its arguments and outputs, and the modules it ran in.

    shapes: of the outputs when it had run; in-place views (squeeze_) change a tensor's later.
    """

    func: torch._ops.OpOverload
    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: tuple[Tensor, ...]
    shapes: tuple[tuple[int, ...], ...]
    path: tuple[nn.Module, ...]

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument by position or keyword."""
        if len(self.args) > position:
            return self.args[position]
        return self.kwargs.get(name, default)

    def tensors(self) -> list[Tensor]:
        """All tensor arguments, those inside lists too."""
        return [value for value in self.leaves() if isinstance(value, Tensor)]

    def leaves(self) -> list[Any]:
        """All arguments, those inside lists one by one."""
        found: list[Any] = []
        for value in (*self.args, *self.kwargs.values()):
            if type(value) in _LISTS and not any(isinstance(v, _NESTED) for v in value):
                found += value  # ten times faster than the general way, and nearly always so
            elif isinstance(value, _NESTED):
                found += pytree.tree_leaves(value)
            else:
                found.append(value)
        return found


@dataclass(frozen=True, slots=True)
class Event:
    """Something an operation demands of an axis."""

    kind: Kind
    axis: Axis
    reason: str
    where: str
    op: Op | None = None


@dataclass(frozen=True, slots=True)
class Use:
    """One use of a parameter's dimension: by its axis, and the order of uses on the tape."""

    name: str
    axis: Axis
    role: Role


@dataclass(frozen=True, eq=False, slots=True)
class Product:
    """A sum of products of two activations over one axis."""

    op: Op
    left: Tensor
    right: Tensor
    axis: Axis
    where: str

    def sides(self, tensor: Tensor) -> list[str]:
        """Which factors of the product a tensor is."""
        both = (("left", self.left), ("right", self.right))
        return [side for side, x in both if x is tensor]

    def other(self, tensor: Tensor) -> Tensor:
        """The factor that a tensor is multiplied with."""
        return self.right if tensor is self.left else self.left


class Context:
    """The axes of every tensor on the tape, and everything that op rules said about them."""

    def __init__(
        self,
        owned: Mapping[str, Tensor],
        modules: Mapping[int, str],
        kept: Mapping[int, str] | None = None,
    ) -> None:
        self._modules = modules
        self._kept = kept or {}  # tensors in attributes of modules
        self._axes: dict[int, list[Axis]] = {}
        self._keep: list[Tensor] = []  # ids are keys, so nothing may be freed meanwhile
        self._origin: dict[int, str] = {}
        self._picked: dict[int, str] = {}  # rows of a stack of weights
        self._computed: set[int] = set()  # depends on parameters alone, but is not a view of one
        self.dims: dict[str, list[Axis]] = {}
        self.events: list[Event] = []
        self.uses: list[Use] = []
        self.fills: dict[str, Fill] = {}
        self.attributes: list[tuple[nn.Module, str, Axis]] = []
        self.products: list[Product] = []
        self.product_of: dict[int, Product] = {}
        self.unknown: dict[str, str] = {}
        self.used: set[str] = set()
        self._made: dict[int, list[list[Axis]]] = {}
        self.op: Op | None = None
        self._told: set[str] = set()
        for name, tensor in owned.items():
            self.dims[name] = [Axis(size) for size in tensor.shape]
            self._axes[id(tensor)] = list(self.dims[name])
            self._origin[id(tensor)] = name
            self._keep.append(tensor)
        self._own = frozenset(self._origin)

    # --- what rules ask -------------------------------------------------------------------

    def axes(self, tensor: Tensor) -> list[Axis]:
        """The axes of a tensor; one that no recorded operation made is a constant."""
        if id(tensor) not in self._axes:
            self._axes[id(tensor)] = self._constant_axes(tensor)
            self._keep.append(tensor)
        return self._axes[id(tensor)]

    def _constant_axes(self, tensor: Tensor) -> list[Axis]:
        holder = self._kept.get(id(tensor))
        if holder is None or not tensor.is_floating_point():
            return [self.fixed(size, "a constant tensor of the code") for size in tensor.shape]
        axes = [Axis(size) for size in tensor.shape]
        for axis in axes:  # of channels, perhaps: it may have been computed from parameters
            self.mixed(axis, f"a tensor that the model keeps in '{holder}' has this width")
        return axes

    def made(self, op: Op) -> list[list[Axis]]:
        """The axes of an operation's outputs as they were when it had run."""
        return self._made.get(id(op), [[] for _ in op.outputs])

    def shape(self, tensor: Tensor) -> tuple[int, ...]:
        """The shape of a tensor when the current operation had run."""
        if self.op is not None:
            for output, shape in zip(self.op.outputs, self.op.shapes, strict=True):
                if output is tensor:
                    return shape
        if id(tensor) in self._axes:
            return tuple(resolve(axis).size for axis in self._axes[id(tensor)])
        return tuple(tensor.shape)

    def origin(self, tensor: Tensor) -> str | None:
        """The name of the parameter or buffer that this tensor is (a view of)."""
        return self._origin.get(id(tensor))

    def stored(self, tensor: Tensor) -> str | None:
        """As `origin`, also for weights that were picked from a stack of them."""
        return self._origin.get(id(tensor)) or self._picked.get(id(tensor))

    def is_owned(self, tensor: Tensor) -> bool:
        """Whether a tensor is a parameter or buffer itself, and no view of one."""
        return id(tensor) in self._own

    def is_constant(self, tensor: Tensor) -> bool:
        """Whether a tensor depends on no activation and is no parameter."""
        made = id(tensor) in self._axes
        return id(tensor) in self._computed or not (made or id(tensor) in self._origin)

    @property
    def where(self) -> str:
        """The name of the module the current operation runs in."""
        if self.op is None or not self.op.path:
            return ""
        innermost = self.op.path[-1]
        return self._modules.get(id(innermost)) or type(innermost).__name__

    # --- what rules say -------------------------------------------------------------------

    def give(self, tensor: Tensor, axes: Sequence[Axis]) -> None:
        """Set the axes of an output (of a tensor that has some already: tie them)."""
        shape = self.shape(tensor)
        if [resolve(axis).size for axis in axes] != list(shape):
            raise Misfit(f"axes {list(axes)} for a tensor of shape {shape}")
        if self.op is not None and torch.Tag.inplace_view in self.op.func.tags:
            self._axes[id(tensor)] = list(axes)
        if id(tensor) in self._axes:
            for old, new in zip(self._axes[id(tensor)], axes, strict=True):
                self.tie(old, new)
            return
        self._axes[id(tensor)] = list(axes)
        self._keep.append(tensor)

    def views(self, output: Tensor, base: Tensor) -> None:
        """`output` holds the numbers of `base`, moved or scaled: it stays that parameter."""
        name = self._origin.get(id(base))
        if name is not None and id(output) not in self._origin:
            self._origin[id(output)] = name
        if id(base) in self._picked:
            self._picked.setdefault(id(output), self._picked[id(base)])
        if id(base) in self._computed:
            self._computed.add(id(output))

    def picks(self, output: Tensor, base: Tensor) -> None:
        """`output` holds weights of a stack of them: who uses it says whether they are read."""
        name = self.stored(base)
        if name is not None:
            self._picked[id(output)] = name

    def tie(self, left: Axis, right: Axis) -> None:
        """Two axes keep one width."""
        try:
            unify(left, right)
        except Misfit as misfit:
            self.mixed(left, f"axes that do not fit ({misfit})")
            self.mixed(right, f"axes that do not fit ({misfit})")

    def mixed(self, axis: Axis, reason: str) -> None:
        """Nothing may grow along this axis."""
        self.events.append(Event("mixed", axis, reason, self.where))

    def mixed_in(self, axis: Axis, reason: str, where: str) -> None:
        """As `mixed`, once the tape is over."""
        self.events.append(Event("mixed", axis, reason, where))

    def fix(self, axis: Axis, reason: str) -> None:
        """This axis is a position, a batch, a class: it has no channels."""
        self.events.append(Event("fixed", axis, reason, self.where))

    def uniform(self, axis: Axis, reason: str) -> None:
        """The channels are averaged: only equal numbers of copies pass."""
        self.events.append(Event("uniform", axis, reason, self.where, self.op))

    def no_zeros(self, axes: Iterable[Axis], reason: str) -> None:
        """Channels of zeros do not stay zero here, or would be dead."""
        where = self.where
        for axis in axes:
            if resolve(axis).size > 1:
                self.events.append(Event("zero", axis, reason, where, self.op))

    def fixed(self, size: int, reason: str) -> Axis:
        """A new axis that cannot grow."""
        axis = Axis(size)
        self.fix(axis, reason)
        return axis

    def use(
        self, tensor: Tensor | None, role: Role, axes: Iterable[Axis] = (), fill: Fill | None = None
    ) -> None:
        """The current operation uses these axes (all, if none are named) of a parameter so."""
        name = None if tensor is None else self.stored(tensor)
        if tensor is None or name is None:
            return
        self._told.add(name)
        self.uses += [Use(name, axis, role) for axis in (list(axes) or self.axes(tensor))]
        if fill is not None:
            self.fills.setdefault(name, fill)

    def contract(self, axis: Axis, x: Tensor, weight: Tensor, weight_axis: Axis) -> None:
        """`axis` of x is summed against `weight_axis` of a parameter, which reads it."""
        if self.stored(weight) is None and self.stored(x) is not None:
            x, weight, axis, weight_axis = weight, x, weight_axis, axis
        if self.stored(weight) is None:
            assert self.op is not None
            product = Product(self.op, x, weight, axis, self.where)
            self.products.append(product)
            self.product_of[id(self.op)] = product
            return
        if self.stored(x) == self.stored(weight):
            self.mixed(axis, "a product of a parameter with itself")
            self.mixed(weight_axis, "a product of a parameter with itself")
            return
        self.use(x, "write")  # if it is a parameter: latents, queries, a learned first state
        self.use(weight, "read", [weight_axis])
        others = [a for a in self.axes(weight) if a is not weight_axis]
        if others:
            self.use(weight, "write", others)

    def attribute(self, name: str, axis: Axis) -> None:
        """An integer argument that the innermost module keeps under this name, if it does."""
        if self.op is not None and self.op.path:
            self.attributes.append((self.op.path[-1], name, axis))

    # --- what the interpreter does --------------------------------------------------------

    def run(self, op: Op, rule: Callable[[Context, Op], None] | None) -> None:
        """Apply a rule; without one, or if it fails, freeze everything the operation touches."""
        self.op = op
        self._told = set()
        if not op.outputs:
            return
        inputs = op.tensors()
        names = {name for name in map(self.origin, inputs) if name is not None}
        self.used |= names
        try:
            if rule is None:
                raise Misfit(f"no rule for {op.name}")
            rule(self, op)
        except (
            Misfit,
            LookupError,
            ValueError,
            TypeError,
            AttributeError,
            RecursionError,
        ) as fault:
            self._freeze(op, str(fault) if isinstance(fault, Misfit) else f"{op.name} ({fault})")
        self._made[id(op)] = [list(self.axes(output)) for output in op.outputs]
        self._default_uses(op, inputs)
        alone = all(id(t) in self._origin or id(t) in self._computed for t in inputs)
        if alone or op.name in ("ones_like", "full_like", "rand_like", "randn_like"):
            self._computed |= {id(o) for o in op.outputs if id(o) not in self._origin}

    def _default_uses(self, op: Op, inputs: Sequence[Tensor]) -> None:
        """A parameter that meets a signal and was not spoken for follows it, channel by channel."""
        if any(self.stored(output) is not None for output in op.outputs):
            return
        for tensor in inputs:
            name = self.stored(tensor)
            if name is not None and name not in self._told:
                self.use(tensor, "follow" if id(tensor) in self._origin else "write")

    def _freeze(self, op: Op, reason: str) -> None:
        self.unknown.setdefault(op.name, self.where)
        for tensor in op.tensors():
            for axis in self.axes(tensor):
                self.mixed(axis, reason)
        for output in op.outputs:
            if id(output) not in self._axes:
                self.give(output, [Axis(size) for size in self.shape(output)])
            for axis in self.axes(output):
                self.mixed(axis, reason)


OpRule = Callable[[Context, Op], None]
Table = Mapping[str, OpRule]


def broadcast(t: Context, tensors: Sequence[Tensor]) -> list[Axis]:
    """The axes of a broadcast over these tensors; dimensions that meet are tied."""
    result: list[Axis] = [Axis(1)] * max((x.dim() for x in tensors), default=0)
    for tensor in tensors:
        for i, axis in enumerate(reversed(t.axes(tensor)), start=1):
            if resolve(axis).size == 1:
                continue
            if resolve(result[-i]).size == 1:
                result[-i] = axis
            else:
                t.tie(result[-i], axis)
    return result
