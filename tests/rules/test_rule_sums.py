"""What every rule promises on 3x3 matrices: `V' E = [V, 0]`, in every dtype, and its spread."""

import math

import pytest
import torch

from gnomon.draw import Draw
from gnomon.embedding import monomial, signal_sums, solve
from gnomon.errors import CannotPreserve
from gnomon.rules import R2R, Hybrid, Law, Net2Net, NetMorph, RandPad, Rule
from gnomon.rules.base import divided, on_grid

V = torch.tensor([[[0.5], [-1.25], [3.0]], [[0.1], [0.2], [-0.3]]], dtype=torch.float64)
RULES = [R2R(), Hybrid(), Net2Net(), Net2Net(uneven=False), NetMorph(), NetMorph(permute=True)]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
AVERAGED = frozenset({Law("uniform", "LayerNorm", "norm")})
every_rule = pytest.mark.parametrize("rule", RULES, ids=repr)
some_widths = pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 8])


def draw(std=0.7):
    return Draw(0, "readers", 1, std)


def readers(rule, k, dtype=torch.float64, old=V):
    e = rule.embed(3, k, frozenset(), draw())
    assert (e.old, e.size) == (3, 3 + k)
    return e, solve(rule.free(old, e, draw()), old, e, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@some_widths
@every_rule
def test_readers_see_the_old_signals_and_nothing_of_the_fresh_ones_exactly(rule, k, dtype):
    """Bit-exact sums: no rounding is left over, whatever the dtype."""
    old = V.to(dtype).double()
    e, new = readers(rule, k, dtype, old)
    assert new.dtype == dtype
    sums = signal_sums(new.double(), e)
    assert torch.equal(sums[:, :3], old)
    assert not sums[:, 3:].any()


@pytest.mark.parametrize("k", [3, 5, 7])
@pytest.mark.parametrize("dtype", DTYPES)
def test_triples_add_up_to_zero_in_the_dtype_itself(dtype, k):
    e, new = readers(R2R(), k, dtype, V.to(dtype).double())
    (triple,) = [c for signals, several in e.classes for c in several if len(c) == 3]
    a, b, c = new[:, triple].unbind(1)
    assert not (a + b + c).any() and a.any() and b.any() and c.any()
    assert not torch.equal(a, b)


@some_widths
@every_rule
def test_new_readers_do_not_depend_on_the_order_of_calls_or_the_global_generator(rule, k):
    torch.manual_seed(k)
    first = readers(rule, k)[1]
    assert torch.equal(first, readers(rule, k)[1])


@pytest.mark.parametrize("rule", [R2R(), Hybrid(), RandPad()], ids=repr)
@pytest.mark.parametrize("k", [300, 301])
def test_new_readers_have_the_spread_of_the_old_ones(rule, k):
    """Pairs are uniform on ±s sqrt(3); the members of a triple have the same spread."""
    old = torch.zeros(40, 3, 5, dtype=torch.float64)
    e = rule.embed(3, k, frozenset(), draw())
    new = rule.free(old, e, draw(0.7))
    fresh = new[:, 3:]
    assert float(fresh.std()) == pytest.approx(0.7, rel=0.02)
    pair = new[:, -2:]
    assert 0.95 * 0.7 * math.sqrt(3) < float(pair.abs().max()) <= 0.7 * math.sqrt(3)


def test_the_triple_has_the_same_spread():
    rule, old = R2R(), torch.zeros(3000, 3, 4, dtype=torch.float64)
    e = rule.embed(3, 3, frozenset(), draw())
    triple = rule.free(old, e, draw(0.7))[:, 3:]
    assert triple.std((0, 2)).tolist() == pytest.approx([0.7] * 3, rel=0.03)
    assert not triple.sum(1).any()


@pytest.mark.parametrize("rule", [R2R(), NetMorph(), RandPad()], ids=repr)
def test_fresh_writers_have_the_spread_they_are_given(rule):
    rows = torch.zeros(30, 3, 40, dtype=torch.float64)
    e = rule.embed(3, 40, frozenset(), draw())
    made = rule.fresh(rows, e, draw(0.3))
    assert made.shape == (30, e.fresh, 40) and made.dtype == torch.float64
    assert float(made.std()) == pytest.approx(0.3, rel=0.02)


@pytest.mark.parametrize("rule", [R2R(), Hybrid(), NetMorph()], ids=repr)
def test_an_average_over_the_channels_is_refused_with_its_place(rule):
    with pytest.raises(CannotPreserve, match=r"LayerNorm in 'norm'.*Net2Net"):
        rule.embed(3, 3, AVERAGED, draw())


def test_random_padding_ignores_every_law_and_says_that_it_does_not_preserve():
    assert not RandPad.preserves
    e = RandPad().embed(3, 2, AVERAGED, draw())
    assert e.source.tolist() == [0, 1, 2, 3, 4]
    assert RandPad().free(V, e, draw())[:, 3:].all()


@pytest.mark.parametrize("rule", [*RULES, RandPad()], ids=repr)
def test_every_rule_cites_its_source_and_prints_as_it_is_written(rule):
    assert (isinstance(rule, Rule) and "et al." in rule.source) or "Painter" in rule.source
    assert eval(repr(rule)) == rule


@pytest.mark.parametrize("cls", [R2R, Hybrid, Net2Net, NetMorph, RandPad])
def test_options_that_mean_nothing_are_value_errors(cls):
    for options in ({"init": "xavier"}, {"statistics": "none"}):
        with pytest.raises(ValueError, match=next(iter(options))):
            cls(**options)
    with pytest.raises(TypeError):
        cls("he")


@pytest.mark.parametrize("uneven", [True, False])
def test_shares_are_dyadic_so_that_they_add_up_without_rounding(uneven):
    """Old weights with few bits: each share is a multiple of a quarter."""
    e = monomial(torch.tensor([0, 1, 2, 0, 0, 1]), 3, 0)
    shares = divided(torch.ones(50, 3, 4, dtype=torch.float64), e, draw(), uneven=uneven)
    assert set(shares.unique().tolist()) <= {0.0, 0.25, 0.5, 0.75, 1.0}
    assert torch.equal(signal_sums(shares, e), torch.ones(50, 3, 4, dtype=torch.float64))
    assert (set(shares[:, 5].unique().tolist()) == {0.5}) == (not uneven)


def test_the_grid_is_coarse_enough_for_sums_of_four():
    values = on_grid(draw().weights((1000,)))
    assert torch.equal(values.bfloat16().double(), values)
    sums = values[0::4] + values[1::4]
    assert torch.equal(sums.bfloat16().double(), sums)
    assert torch.equal(on_grid(torch.zeros(3)), torch.zeros(3))
