"""R2R: twins, a triple if the number is odd, and one that joins an old channel."""

import torch

from gnomon.draw import Draw
from gnomon.rules import R2R

V = torch.tensor([[[0.5], [-1.25], [3.0]]], dtype=torch.float64)


def test_an_even_number_makes_twins():
    e = R2R().embed(3, 4, frozenset(), Draw(0, "x"))
    assert e.source.tolist() == [0, 1, 2, 3, 3, 4, 4] and e.fresh == 2
    new = R2R().free(V, e, Draw(0, "x"))
    assert torch.equal(new[:, 3], -new[:, 4]) and torch.equal(new[:, 5], -new[:, 6])
    assert not torch.equal(new[:, 3].abs(), new[:, 5].abs())


def test_an_odd_number_makes_one_triple():
    e = R2R().embed(3, 5, frozenset(), Draw(0, "x"))
    assert e.source.tolist() == [0, 1, 2, 3, 3, 3, 4, 4] or e.copies.tolist() == [1, 1, 1, 3, 2]
    assert e.fresh == 2


def test_a_single_channel_joins_an_old_one_and_shares_its_readers():
    e = R2R().embed(3, 1, frozenset(), Draw(0, "x"))
    owner = int(e.source[3])
    assert owner in (0, 1, 2) and e.fresh == 0
    new = R2R().free(V, e, Draw(0, "x"))
    assert float(new[0, owner] + new[0, 3]) == float(V[0, owner])
