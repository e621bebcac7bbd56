"""Recurrent layers that run as one operation; most are seen as products and gates instead."""

from __future__ import annotations

from gnomon.axes import Misfit, resolve
from gnomon.ops.context import Context, Op, Table
from gnomon.ops.shape import segment_axes

_LSTM = 2


def runs_an_lstm(t: Context, op: Op) -> None:
    """mkldnn_rnn_layer, one direction of one layer: x (T, B, k) -> (T, B, h), (B, h), (B, h).

    W_ih (4h, k) and W_hh (4h, h) write four gates per hidden channel, of which W_hh is a reader.
    """
    x, input_weight, hidden_weight, *biases = op.args[:5]
    if op.argument(9, "mode") != _LSTM:
        raise Misfit(f"no rule for {op.name} of mode {op.argument(9, 'mode')}")
    steps, batch, inside = t.axes(x)
    gates, hidden = t.axes(hidden_weight)
    t.tie(t.axes(input_weight)[0], gates)
    for gate in segment_axes(t, gates, [resolve(hidden).size] * 4):
        t.tie(gate, hidden)
    for bias, weight in zip(biases, (input_weight, hidden_weight), strict=True):
        for own, axis in zip(t.axes(bias), t.axes(weight), strict=False):
            t.tie(own, axis)  # where there is no bias, it is zeros in the shape of the weight
        t.use(bias, "write")
    for state in op.args[5:7]:
        t.tie(t.axes(state)[0], batch)
        t.tie(t.axes(state)[1], hidden)
        t.use(state, "write")
    t.tie(inside, t.axes(input_weight)[1])
    t.contract(inside, x, input_weight, t.axes(input_weight)[1])
    t.use(hidden_weight, "read", [hidden])
    t.use(hidden_weight, "write", [gates])
    t.fix(steps, "a position")
    t.no_zeros([hidden], op.name)
    t.attribute("hidden_size", hidden)
    t.give(op.outputs[0], [steps, batch, hidden])
    for last in op.outputs[1:3]:
        t.give(last, [batch, hidden])


def packs_sequences(t: Context, op: Op) -> None:
    """_pack_padded_sequence: (B, T, ...) -> (all steps, ...), and how many are at each step."""
    x, y = op.args[0], op.outputs[0]
    for axis in t.axes(x)[:2]:
        t.fix(axis, "a position")
    t.give(y, [t.fixed(t.shape(y)[0], "a position"), *t.axes(x)[2:]])
    t.give(op.outputs[1], [t.fixed(n, "a position") for n in t.shape(op.outputs[1])])


def pads_sequences(t: Context, op: Op) -> None:
    """_pad_packed_sequence: (all steps, ...) -> (B, T, ...), one number where there is no step."""
    x, y = op.args[0], op.outputs[0]
    steps, *channels = t.axes(x)
    t.fix(steps, "a position")
    if op.argument(3, "padding_value", 0):
        t.no_zeros(channels, op.name)
    t.give(y, [*[t.fixed(n, "a position") for n in t.shape(y)[:2]], *channels])
    t.give(op.outputs[1], [t.fixed(n, "a position") for n in t.shape(op.outputs[1])])


TABLE: Table = {
    "mkldnn_rnn_layer": runs_an_lstm,
    "_pack_padded_sequence": packs_sequences,
    "_pad_packed_sequence": pads_sequences,
}
