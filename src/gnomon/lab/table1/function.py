"""Whether the function is kept: through which activations, in which modes, beside what, how often.

Nothing here knows which method it measures. Where a method does nothing at all, Refused passes.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress

import torch
from torch import nn

from gnomon.lab.table1.activations import ACTIVATIONS, described
from gnomon.lab.table1.method import ADDED, COUNTS, Finding, Method, Refused, shown
from gnomon.lab.table1.networks import (
    EXACT,
    SHAPES,
    NewLayers,
    Small,
    Stream,
    change,
    inputs_of,
    outputs,
)

KEPT, IN_EXPECTATION, CHANGED = 2, 1, 0
BATCHES = 400


def activations_widen(method: Method) -> Finding:
    """The activations through which both layer shapes can be widened."""
    found: dict[str, set[str]] = {label: set() for label in SHAPES}
    for label, name in itertools.product(SHAPES, ACTIVATIONS):
        net = Small(ACTIVATIONS[name], SHAPES[label])
        with suppress(Refused):
            if change(net, method.widen(net, ADDED)) <= EXACT:
                found[label].add(name)
    both = frozenset(set.intersection(*found.values()))
    each = "; ".join(f"{label}: {described(names)}" for label, names in found.items())
    return Finding(both, described(both) if len(set(map(len, found.values()))) == 1 else each)


def activations_deepen(method: Method) -> Finding:
    """The activations behind which, and with which, a network can be deepened."""
    ways: dict[str, set[str]] = defaultdict(set)
    refusals = dict[str, str]()
    for name, activation in ACTIVATIONS.items():
        net = Small(activation)
        try:
            deeper, way = method.deepen(net, NewLayers(activation))
        except Refused as refusal:
            refusals[name] = str(refusal)
            continue
        if change(net, deeper) <= EXACT:
            ways[way].add(name)
    if len(refusals) == len(ACTIVATIONS):
        raise Refused(next(iter(refusals.values())))
    found = frozenset(name for names in ways.values() for name in names)
    each = [f"; {way}: {described(names)}" for way, names in sorted(ways.items())]
    return Finding(found, described(found) + "".join(each if len(ways) > 1 else []))


def preserving_widen(method: Method) -> Finding:
    """How far outputs move with BatchNorm, in both modes."""
    moved = {False: 0.0, True: 0.0}
    for shape, training in itertools.product(SHAPES.values(), moved):
        net = Small(nn.ReLU, shape, norm=True)
        wider = method.widen(net, ADDED)
        moved[training] = max(moved[training], change(net, wider, training=training))
    value = KEPT if max(moved.values()) <= EXACT else CHANGED
    return Finding(value, f"eval {shown(moved[False])}, train {shown(moved[True])}")


def preserving_deepen(method: Method) -> Finding:
    """The same with BatchNorm in the new layers; where train mode moves, what the mean does."""
    net, new = Small(nn.ReLU, norm=True), NewLayers(nn.ReLU, norm=True, examples=4096)
    deeper, _ = method.deepen(net, new)
    evaluated, trained = change(net, deeper), change(net, deeper, training=True)
    text = f"eval {shown(evaluated)}, train {shown(trained)}"
    if evaluated > EXACT or trained <= EXACT:
        return Finding(KEPT if evaluated <= EXACT else CHANGED, text)
    mean = mean_change(net, deeper)
    plain = Small(nn.ReLU)
    without = change(plain, method.deepen(plain, NewLayers(nn.ReLU))[0], training=True)
    text += f" (in the mean of {BATCHES} batches {shown(mean)}); no BatchNorm {shown(without)}"
    return Finding(IN_EXPECTATION if mean < trained / 2 else CHANGED, text)


def mean_change(old: Small, new: Small, size: int = 64) -> float:
    """max|mean change| / max|old output| of eight examples in train mode, in changing batches."""
    fixed = inputs_of(old, count=8, seed=7)
    total, largest = torch.zeros(()), 0.0
    for i in range(BATCHES):
        x = torch.cat([fixed, inputs_of(old, count=size - 8, seed=100 + i)])
        before = outputs(old, x, training=True)[:8]
        total = total + (outputs(new, x, training=True)[:8] - before)
        largest = max(largest, float(before.abs().max()))
    return float((total / BATCHES).abs().max()) / largest


def residual_widen(method: Method) -> Finding:
    """How far outputs move when a residual stream is widened."""
    net = Stream()
    return _moved(change(net, method.widen_stream(net)))


def residual_deepen(method: Method) -> Finding:
    """How far outputs move when the branch beside a residual connection is deepened."""
    net = Stream()
    return _moved(change(net, method.deepen_stream(net, NewLayers(nn.ReLU))))


def _moved(moved: float) -> Finding:
    return Finding(int(moved <= EXACT), f"change {shown(moved)}")


def new_layers(method: Method) -> Finding:
    """How many layers can be put in at once."""
    net = Small(nn.ReLU)
    return _accepted(lambda n: change(net, method.deepen(net, NewLayers(nn.ReLU, n))[0]))


def new_channels(method: Method) -> Finding:
    """How many channels can be added."""
    net = Small(nn.Tanh)
    return _accepted(lambda n: change(net, method.widen(net, n)))


def _accepted(moved: Callable[[int], float]) -> Finding:
    """The numbers that are not refused and keep the function."""
    exact, refusals = list[int](), list[str]()
    for count in COUNTS:
        try:
            if moved(count) <= EXACT:
                exact.append(count)
        except Refused as refusal:
            refusals.append(str(refusal))
    if len(refusals) == len(COUNTS):
        raise Refused(refusals[0])
    every = len(exact) > 2 and exact == list(range(exact[0], exact[-1] + 1))
    text = f"{exact[0]} to {exact[-1]}" if every else " and ".join(map(str, exact))
    return Finding(frozenset(exact), text or "none")
