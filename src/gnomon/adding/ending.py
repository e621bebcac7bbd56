"""How a network ends: its last layer, and what acts on that layer's output.

    z = tail( V h + b )        tail: activations, views, pooling; no norm, no second path

A zero start needs V and b, and a number b at which the tail is zero without being flat.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from gnomon.errors import CannotPreserve
from gnomon.ops.context import Op
from gnomon.recording.tape import Recording, owned_tensors

_PRODUCTS = ("convolution", "_convolution", "mm", "addmm", "bmm", "baddbmm", "mv", "addmv")
_BIAS_AT = {"convolution": 2, "_convolution": 2, "addmm": 0, "baddbmm": 0, "addmv": 0}
_REACH, _STEPS, _HALVINGS = 8.0, 129, 200


@dataclass(frozen=True, eq=False)
class Ending:
    """The last product with weights, and the operations behind it.

    weights: names of the parameters that the product's weight is made of.
    bias:    name of the parameter added to the product, or None.
    """

    weights: frozenset[str]
    bias: str | None
    start: Tensor
    tail: tuple[Op, ...]

    def value(self, x: Tensor) -> Tensor:
        """What the tail makes of another output of the last layer. Autograd passes."""
        now = {id(self.start): x}
        for op in self.tail:
            args, kwargs = pytree.tree_map_only(
                Tensor, partial(_now, now), (op.args, dict(op.kwargs))
            )
            result = op.func(*args, **kwargs)
            outputs = result if isinstance(result, tuple | list) else (result,)
            tensors = [y for y in outputs if isinstance(y, Tensor)]
            now |= {id(o): y for o, y in zip(op.outputs, tensors, strict=True)}
        return now[id(self.tail[-1].outputs[0])] if self.tail else x

    @property
    def names(self) -> str:
        """The operations of the tail, for messages."""
        return ", ".join(op.name for op in self.tail)


def _now(values: dict[int, Tensor], recorded: Tensor) -> Tensor:
    return values.get(id(recorded), recorded)


def ending(model: nn.Module, recording: Recording) -> Ending:
    """Walk back from the output of a forward pass on real tensors to the last layer.

    Raises CannotPreserve where a norm, a second path or nothing at all stands there.
    """
    if len(recording.outputs) != 1:
        raise CannotPreserve(
            f"it returns {len(recording.outputs)} tensors: a zero start needs exactly one"
        )
    owned = {id(t): name for name, t in owned_tensors(model).items()}
    live = _depending(recording)
    needed, tail = {id(recording.outputs[0])}, list[Op]()
    for position in range(len(recording.ops) - 1, -1, -1):
        op = recording.ops[position]
        made = [o for o in op.outputs if id(o) in needed]
        if not made:
            continue
        inputs = {id(t) for t in op.tensors() if id(t) in live}
        if op.name in _PRODUCTS and len(inputs) == len(needed) == 1:
            given = [t for t in op.tensors() if id(t) not in live]
            weights = _sources(given, recording.ops[:position], owned)
            if weights:
                return _ending(op, weights, made[0], tail[::-1], recording.ops, owned)
        _check(op, inputs, needed)
        tail.append(op)
        needed = needed - {id(o) for o in op.outputs} | inputs
    raise CannotPreserve("no layer with weights of its own stands before its output")


def _check(op: Op, inputs: set[int], needed: set[int]) -> None:
    if "norm" in op.name:
        raise CannotPreserve(
            f"{op.name} stands behind its last layer: a norm behind the zero sum would blow up "
            f"rounding errors now and the first updates by up to 1 / sqrt(eps). Put the norm "
            f"before the last layer ('inside'), or leave it out"
        )
    if op.name in _PRODUCTS and len(needed) > 1:
        raise CannotPreserve(
            f"several paths are joined behind its last layers ({op.name} is one of them), so there "
            f"is no one last layer whose output could cancel. Give the branch alone: a network "
            f"that ends in a layer, or in a layer and an activation"
        )
    if not inputs:
        raise CannotPreserve(f"its output does not depend on its input ({op.name})")


def _depending(recording: Recording) -> set[int]:
    """The ids of tensors that depend on the model's inputs."""
    live = {id(x) for x in recording.inputs}
    for op in recording.ops:
        if any(id(t) in live for t in op.tensors()):
            live |= {id(o) for o in op.outputs}
    return live


def _sources(tensors: Sequence[Tensor], ops: Sequence[Op], owned: dict[int, str]) -> frozenset[str]:
    """The parameters that tensors were made of, without the model's input."""
    found, waiting, seen = set[str](), list(tensors), set[int]()
    while waiting:
        tensor = waiting.pop()
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        if id(tensor) in owned:
            found.add(owned[id(tensor)])
            continue
        makers = (op for op in reversed(ops) if any(o is tensor for o in op.outputs))
        waiting += next((op.tensors() for op in makers), [])
    return frozenset(found)


def _ending(
    op: Op,
    weights: frozenset[str],
    start: Tensor,
    tail: list[Op],
    ops: Sequence[Op],
    owned: dict[int, str],
) -> Ending:
    """Tell the bias from the weights: an argument of the product, or what is added first."""
    position = _BIAS_AT.get(op.name)
    addend = op.args[position] if position is not None else None
    if isinstance(addend, Tensor):
        names = _sources([addend], ops[: ops.index(op)], owned)
        bias = next(iter(names)) if len(names) == 1 and id(addend) in owned else None
        if bias is None:
            raise CannotPreserve(f"the bias of its last layer is computed (from {sorted(names)})")
        return Ending(weights - names, bias, start, tuple(tail))
    if tail and tail[0].name in ("add", "add_"):
        added = [t for t in tail[0].tensors() if id(t) in owned]
        if len(added) == 1:
            return Ending(weights, owned[id(added[0])], tail[0].outputs[0], tuple(tail[1:]))
    return Ending(weights, None, start, tuple(tail))


def root(end: Ending, *, allow_dead: bool) -> float:
    """The b at which the tail is zero, the nearest to 0 at which it has a slope.

    Raises CannotPreserve if there is none (sigmoid), or only flat ones (ReLU) and not allow_dead.
    """
    if not end.tail:
        return 0.0
    flat: float | None = None
    for b in _candidates(end):
        size, slope = _at(end, b)
        if size > 4 * torch.finfo(end.start.dtype).eps:
            continue
        if slope > 0:
            return b
        flat = b if flat is None else flat
    if flat is None:
        free = "" if end.bias else " (and its last layer has no bias that could be moved)"
        raise CannotPreserve(
            f"what stands behind its last layer ({end.names}) is nowhere zero{free}. End in the "
            f"layer itself, or in an activation with a root: GELU, SiLU, tanh, LeakyReLU"
        )
    if not allow_dead:
        raise CannotPreserve(
            f"what stands behind its last layer ({end.names}) is flat wherever it is zero, so no "
            f"gradient would ever pass. End in the layer itself, in GELU, SiLU, tanh or LeakyReLU, "
            f"or say allow_dead=True"
        )
    return flat


def _candidates(end: Ending) -> list[float]:
    """0, and where a tail changes its sign, if there is a bias to put it there."""
    found = [0.0]
    if end.bias is None:
        return found
    grid = [_REACH * (2 * i / (_STEPS - 1) - 1) for i in range(_STEPS)]
    values = [_first(end, b) for b in grid]
    for left, right, a, b in zip(grid, grid[1:], values, values[1:], strict=False):
        if a == 0 or a * b < 0:
            found.append(left if a == 0 else _bisected(lambda x: _first(end, x), left, right))
    return [0.0, *sorted(found[1:], key=abs)]


def _bisected(f: Callable[[float], float], left: float, right: float) -> float:
    sign = f(left)
    for _ in range(_HALVINGS):
        middle = (left + right) / 2
        if middle in (left, right):
            break
        left, right = (middle, right) if f(middle) * sign > 0 else (left, middle)
    return min((left, right), key=lambda b: abs(f(b)))


def _first(end: Ending, b: float) -> float:
    with torch.no_grad():
        return float(end.value(torch.full_like(end.start, b)).flatten()[0])


def _at(end: Ending, b: float) -> tuple[float, float]:
    """The largest value and the largest slope of the tail at a constant."""
    with torch.enable_grad():
        x = torch.full_like(end.start, b).requires_grad_()
        y = end.value(x * 1)  # in-place activations may not write on a leaf
        (gradient,) = torch.autograd.grad(y.sum(), x, allow_unused=True)
    slope = 0.0 if gradient is None else float(gradient.abs().max())
    return float(y.detach().abs().max()), slope
