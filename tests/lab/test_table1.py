"""Table 1 of the R2R paper: the page is what is measured, and every cell can fail."""

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import nn

import gnomon.planning.fill
from gnomon.lab.table1 import METHODS, ROWS, Cell, Verdict, cell, page
from gnomon.lab.table1.activations import ACTIVATIONS, described, families, flat_at_zero
from gnomon.lab.table1.cells import verdict
from gnomon.lab.table1.here import Here
from gnomon.lab.table1.method import Refused
from gnomon.lab.table1.networks import EXACT, NewLayers, Small, Stream, change
from gnomon.lab.table1.parameters import places
from gnomon.lab.table1.published import ChensNet2Net, PaintersR2R, WeisNetMorph
from gnomon.lab.table1.render import table
from gnomon.rules import R2R, Net2Net, NetMorph, RandPad

PAGE = Path(__file__).parents[2] / "docs/table-1.md"
MEASURED = r"(?<= )0\.0*\d\b"  # changes are printed with one digit: 0.04
ROW = {row.title: row for row in ROWS}


def test_the_page_in_the_docs_is_what_is_measured():
    made, written = page(), PAGE.read_text(encoding="utf-8")
    numbers = [[float(x) for x in re.findall(MEASURED, text)] for text in (made, written)]
    made, written = (
        re.sub(MEASURED, "#", re.sub(r"torch \d[\d.]*", "torch", text)) for text in (made, written)
    )
    hint = "gnomon run r2r/table1 writes it anew"
    assert made.splitlines() == written.splitlines(), hint
    assert len(numbers[0]) == len(numbers[1]) > 8
    for now, then in zip(*numbers, strict=True):  # the last digit may round to its neighbour
        assert now == pytest.approx(then, rel=0.5), hint


class WithoutCancelling(PaintersR2R):
    """R2R with a sign lost: readers +Y and +Y."""

    def grown(self, old, add, draw):
        new = super().grown(old, add, draw)
        n = old.columns.shape[1]
        columns = torch.cat([new.columns[:, : n + add // 2], new.columns[:, n : n + add // 2]], 1)
        return replace(new, columns=columns)

    def insert(self, net, new, draw):
        super().insert(net, new, draw)
        *_, last = (m for m in net.deeper.modules() if isinstance(m, nn.Linear))
        with torch.no_grad():
            last.bias.fill_(1.0)


class WithZeroReaders(PaintersR2R):
    """R2R whose twins are not read: they get the same gradients for ever."""

    def grown(self, old, add, draw):
        new = super().grown(old, add, draw)
        n = old.columns.shape[1]
        silent = torch.zeros_like(new.columns[:, n:])
        return replace(new, columns=torch.cat([new.columns[:, :n], silent], 1))


class WithOneDraw(PaintersR2R):
    """R2R that draws the same numbers whatever the seed."""

    def widen(self, net, add, seed=0):
        return super().widen(net, add, 0)


class Rescaling(PaintersR2R):
    """R2R that moves the last bit of old weights."""

    def grown(self, old, add, draw):
        return super().grown(replace(old, rows=old.rows * (1 + 2**-52)), add, draw)


BROKEN = {
    "activation functions (deepen)": WithoutCancelling(),
    "activation functions (widen)": WithoutCancelling(),
    "function preserving (widen)": WithoutCancelling(),
    "function preserving (deepen)": WithoutCancelling(),
    "requires noise": WithZeroReaders(),
    "residual connections (widen)": WithoutCancelling(),
    "residual connections (deepen)": WithoutCancelling(),
    "degrees of freedom": WithOneDraw(),
    "preserves existing parameters": Rescaling(),
    "number of new layers (deepen)": WithoutCancelling(),
    "number of new channels (widen)": WithoutCancelling(),
}


@pytest.mark.parametrize("title", ROW)
def test_every_row_can_fail(title):
    assert cell(ROW[title], PaintersR2R()).holds
    broken = cell(ROW[title], BROKEN[title])
    assert broken.verdict is Verdict.LESS and not broken.holds


@dataclass(frozen=True)
class Posing(Here):
    """Another of gnomon's rules in R2R's place."""

    name: str = "R2R"


@pytest.mark.parametrize(
    "title", [t for t in ROW if t.split()[0] in ("function", "residual", "number")]
)
def test_a_rule_of_gnomon_that_does_not_preserve_is_found_out(title):
    assert cell(ROW[title], Here(R2R())).holds
    assert not cell(ROW[title], Posing(RandPad())).holds


def test_what_gnomon_refuses_does_not_hold_and_says_why(monkeypatch):
    assert cell(ROW["function preserving (widen)"], Here(Net2Net())).holds
    monkeypatch.setattr(gnomon.planning.fill, "solve", lambda z, *_: z * 2)
    refused = cell(ROW["function preserving (widen)"], Here(Net2Net()))
    assert not refused.holds and "read.weight" in refused.measured


def test_net2net_here_needs_noise_if_its_shares_are_equal():
    equal = Here(Net2Net(uneven=False))
    noise, freedom = ROW["requires noise"], ROW["degrees of freedom"]
    assert cell(noise, Here(Net2Net())).verdict is Verdict.MORE
    assert cell(noise, equal).measured == cell(noise, ChensNet2Net()).measured
    assert cell(freedom, equal).measured == cell(freedom, ChensNet2Net()).measured == "0"


def test_netmorph_leaves_its_shuffle_out_to_widen_a_stream():
    net = Stream()
    assert change(net, WeisNetMorph().widen_stream(net)) > 0.01
    assert change(net, WeisNetMorph(shuffles=False).widen_stream(net)) <= EXACT


def test_netmorph_moves_old_channels_but_keeps_them():
    net = Small(nn.ReLU)
    assert places(net, WeisNetMorph().widen(net, 4)) != list(range(6))
    assert places(net, WeisNetMorph(shuffles=False).widen(net, 4)) == list(range(6))


def test_zero_writers_are_refused_here_in_front_of_a_relu():
    with pytest.raises(Refused, match="do not live"):
        Here(NetMorph(zero="writers")).widen(Small(nn.ReLU), 4)
    net = Small(nn.Tanh)
    assert change(net, Here(NetMorph(zero="writers")).widen(net, 4)) <= EXACT


def test_an_identity_layer_needs_the_range_and_not_idempotence():
    sigmoid, linear = Small(nn.Sigmoid), Small(nn.Hardshrink)
    behind = NewLayers(nn.ReLU, 1)
    assert change(sigmoid, ChensNet2Net().deepen(sigmoid, behind)[0]) <= EXACT
    assert change(linear, ChensNet2Net().deepen(linear, behind)[0]) > 0.01  # both idempotent


def test_a_block_that_ends_in_relu_is_dead_and_refused_here():
    assert "ReLU" in flat_at_zero() and "GELU" not in flat_at_zero()
    net = Small(nn.ReLU)
    assert Here(R2R()).deepen(net, NewLayers(nn.ReLU))[1] == "f inside only"
    assert Here(R2R()).deepen(Small(nn.GELU), NewLayers(nn.GELU))[1] == "ending in f"


def test_every_activation_of_torch_that_keeps_the_shape_is_tried():
    assert {"ReLU", "GELU", "Softmax", "RReLU", "LogSigmoid"} <= ACTIVATIONS.keys()
    for name, activation in ACTIVATIONS.items():
        assert activation().double()(torch.zeros(2, 6).double()).shape == (2, 6), name
    assert "Softmax" not in families()["per entry"] and "GELU" in families()["per entry"]


def test_sets_are_told_by_the_class_they_are_nearest_to():
    zero = families()["with f(0) = 0"]
    assert described(zero) == f"the {len(zero)} with f(0) = 0"
    told = described((zero | {"LayerNorm"}) - {"GELU"})
    assert told == f"the {len(zero)} with f(0) = 0, without GELU, and LayerNorm"
    assert described({"GELU", "Mish"}) == "GELU, Mish" and described(()) == "none"


@pytest.mark.parametrize(
    ("claimed", "found", "expected"),
    [
        (frozenset("ab"), frozenset("ab"), Verdict.SAME),
        (frozenset("ab"), frozenset("abc"), Verdict.MORE),
        (frozenset("ab"), frozenset("acd"), Verdict.LESS),
        (Fraction(1, 2), Fraction(4, 8), Verdict.SAME),
        (Fraction(1, 2), Fraction(3, 8), Verdict.LESS),
        (0, 1, Verdict.MORE),
    ],
)
def test_sets_compare_by_inclusion_and_numbers_by_size(claimed, found, expected):
    assert verdict(claimed, found) is expected


def test_the_renderer_marks_what_differs_and_knows_no_method():
    same, more = Cell("any", "1 to 5", Verdict.SAME), Cell("any", "all", Verdict.MORE)
    rows = table([(ROWS[0], "A", same, more), (ROWS[0], "B", more, same)]).splitlines()[2:]
    assert rows == [
        f"| {ROWS[0].title} | A | any | 1 to 5 | **more**: all |",
        "|  | B | any | **more**: all | 1 to 5 |",
    ]


def test_each_method_stands_in_its_own_column():
    assert [(a.name, b.name) for a, b in METHODS] == [
        (n, n) for n in ("R2R", "Net2Net", "NetMorph")
    ]
