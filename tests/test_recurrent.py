"""Recurrent layers: the hidden width grows, in every dtype, whichever way torch computes them."""

import pytest
import torch
from torch import nn

import gnomon as gn
from contracts import answers, change, loss
from toys import Toy, noise
from untouched import bits

AMOUNTS = {
    "R2R": (gn.R2R(), {"add": 2}),
    "R2R-one": (gn.R2R(), {"add": 1}),
    "Net2Net": (gn.Net2Net(), {"by": 1.5}),
    "readers": (gn.NetMorph(), {"add": 3}),
}
CELLS = {
    "lstm": lambda: nn.LSTM(4, 6, batch_first=True),
    "lstm without biases": lambda: nn.LSTM(4, 6, batch_first=True, bias=False),
    "two layers, both directions": lambda: nn.LSTM(4, 6, 2, batch_first=True, bidirectional=True),
    "gru": lambda: nn.GRU(4, 6, 2, batch_first=True),
    "rnn": lambda: nn.RNN(4, 6, batch_first=True),
}


class Sequence(nn.Module):
    """Words of five channels, a recurrent layer, a head on all of its states."""

    def __init__(self, cell, given=False):
        super().__init__()
        self.enter, self.body = nn.Linear(3, 4), cell
        self.head = nn.Linear(6 * (2 if cell.bidirectional else 1), 2)
        self.first = nn.Parameter(torch.randn(1, 1, 6)) if given else None

    def forward(self, x):
        start = None
        if self.first is not None:
            start = (self.first.expand(1, len(x), -1).contiguous(),) * 2
        every, _ = self.body(self.enter(x).relu(), start)
        return self.head(every)


def toy(name, given=False):
    return Toy(lambda: Sequence(CELLS[name](), given), noise(5, 7, 3))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rule", AMOUNTS)
@pytest.mark.parametrize("name", CELLS)
def test_hidden_channels_grow(name, rule, dtype):
    """In float32 and bf16 an LSTM is one kernel on a CPU; in float64 it is products and gates."""
    how, amount = AMOUNTS[rule]
    model, x = toy(name).model(dtype), toy(name).example(dtype)
    old = [answers(model, x, mode) for mode in (False, True)]
    for where in ("body", "enter", "body"):
        gn.Grower(model, x).grow(gn.Widen(where, rule=how, **amount))
    limit = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.05}[dtype]
    assert max(change(old[m], answers(model, x, bool(m))) for m in (0, 1)) <= limit
    assert model.body.hidden_size == model.body.weight_hh_l0.shape[1] > 6
    assert model.body.input_size == model.enter.out_features > 4
    if dtype == torch.float64:
        loss(model.train(), x).backward()
        assert all(bool(p.grad.any()) for p in model.parameters())


def test_twins_are_equal_in_all_four_gates_and_read_with_opposite_signs():
    model, x = toy("lstm").model(torch.float32), toy("lstm").example(torch.float32)
    gn.Grower(model, x).grow(gn.Widen("body", add=2))
    gates = model.body.weight_ih_l0.view(4, 8, 4)
    again = model.body.weight_hh_l0.view(4, 8, 8)
    assert torch.equal(gates[:, 6], gates[:, 7]) and torch.equal(again[:, 6], again[:, 7])
    assert torch.equal(again[:, :6, 6], -again[:, :6, 7]) and again[:, :6, 6].abs().min() > 0


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_a_learned_first_state_grows_along(dtype, limit):
    """In float64 it is multiplied by weights as any other parameter: it writes, they read."""
    model, x = toy("lstm", True).model(dtype), toy("lstm", True).example(dtype)
    old = answers(model, x, False)
    gn.Grower(model, x).grow(gn.Widen("body", add=2))
    assert change(old, answers(model, x, False)) <= limit and model.first.shape == (1, 1, 8)
    loss(model.train(), x).backward()
    assert bool(model.first.grad[..., 6:].any())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_zero_writers_are_refused_behind_gates(dtype):
    """A sigmoid of zero is a half."""
    model, x = toy("lstm").model(dtype), toy("lstm").example(dtype)
    before = bits(model.state_dict())
    with pytest.raises(gn.CannotPreserve, match="'body'"):
        gn.Grower(model, x).grow(gn.Widen("body", add=2, rule=gn.NetMorph(zero="writers")))
    assert bits(model.state_dict()) == before


class Stepping(nn.Module):
    """A cell in a loop; the module around it reads the width of the first state from the cell."""

    def __init__(self, cell):
        super().__init__()
        self.cell, self.head = cell, nn.Linear(6, 2)

    def forward(self, x):
        h = x.new_zeros(len(x), self.cell.hidden_size)
        for step in x.unbind(1):
            h = self.cell(step, h)
        return self.head(h)


@pytest.mark.parametrize("rule", AMOUNTS)
@pytest.mark.parametrize("cell", [nn.GRUCell, nn.RNNCell])
def test_a_cell_says_its_new_width_to_the_module_that_runs_it(cell, rule):
    how, amount = AMOUNTS[rule]
    spec = Toy(lambda: Stepping(cell(3, 6)), noise(5, 4, 3))
    model, x = spec.model(), spec.example()
    old = answers(model, x, True)
    for _ in range(2):
        gn.Grower(model, x).grow(gn.Widen("cell", rule=how, **amount))
    assert change(old, answers(model, x, True)) <= 1e-12
    assert model.cell.hidden_size == model.cell.weight_hh.shape[1] == model.head.in_features > 6


class Packed(nn.Module):
    """Sentences of several lengths, packed, run and padded again."""

    def __init__(self, body):
        super().__init__()
        self.words, self.body = nn.Embedding(9, 5), body
        self.every, self.last = nn.Linear(6, 3), nn.Linear(6, 2)

    def forward(self, words, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(
            self.words(words), lengths, batch_first=True, enforce_sorted=False
        )
        out, state = self.body(packed)
        out, _ = nn.utils.rnn.pad_packed_sequence(out, batch_first=True)
        state = state[0] if isinstance(state, tuple) else state
        return self.every(out), self.last(state[-1])


def sentences(draw):
    return torch.randint(0, 9, (3, 7), generator=draw), torch.tensor([7, 3, 5])


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("rule", AMOUNTS)
@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU])
def test_packed_sequences_keep_their_channels(cell, rule, dtype, limit):
    how, amount = AMOUNTS[rule]
    spec = Toy(lambda: Packed(cell(5, 6, 2, batch_first=True)), sentences)
    model, x = spec.model(dtype), spec.example(dtype)
    old = [answers(model, x, mode) for mode in (False, True)]
    for where in ("words", "body", "words"):
        gn.Grower(model, x).grow(gn.Widen(where, rule=how, **amount))
    for mode in (False, True):
        assert change(old[mode], answers(model, x, mode)) <= limit
    loss(model, x).backward()
    assert model.body.hidden_size > 6 and all(bool(p.grad.any()) for p in model.parameters())
