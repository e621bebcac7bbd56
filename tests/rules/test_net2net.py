"""Net2Net: which channels are copied, and how their readers are shared."""

import pytest
import torch

from gnomon.draw import Draw
from gnomon.errors import CannotPreserve
from gnomon.rules import Law, Net2Net

AVERAGED = frozenset({Law("uniform", "RMSNorm", "norm")})


@pytest.mark.parametrize("k", [1, 3, 4, 7, 8, 11])
def test_none_is_copied_twice_before_all_have_been_copied_once(k):
    e = Net2Net().embed(4, k, frozenset(), Draw(0, "x"))
    assert e.keeps_prefix and e.fresh == 0
    assert int(e.copies.max() - e.copies.min()) <= 1 and int(e.copies.sum()) == 4 + k


def test_the_order_of_copying_is_random():
    orders = {
        tuple(Net2Net().embed(6, 6, frozenset(), Draw(seed, "x")).source.tolist())
        for seed in range(5)
    }
    assert len(orders) == 5


def test_averaged_channels_are_copied_equally_often_or_not_at_all():
    e = Net2Net().embed(3, 6, AVERAGED, Draw(0, "x"))
    assert e.source.tolist() == [0, 1, 2] * 3
    with pytest.raises(CannotPreserve, match=r"RMSNorm in 'norm'.*multiple"):
        Net2Net().embed(3, 4, AVERAGED, Draw(0, "x"))


def test_equal_shares_are_equal_and_uneven_ones_are_not():
    old = torch.ones(20, 3, 2, dtype=torch.float64)
    e = Net2Net().embed(3, 3, frozenset(), Draw(0, "x"))
    even = Net2Net(uneven=False).free(old, e, Draw(0, "x"))
    assert set(even.unique().tolist()) == {0.5}
    uneven = Net2Net().free(old, e, Draw(0, "x"))
    for signals, channels in e.classes:
        for _, pair in zip(signals, channels, strict=True):
            assert not torch.equal(uneven[:, pair[0]], uneven[:, pair[1]])


@pytest.mark.parametrize("readers", [1, 2, 3])
def test_copies_with_few_readers_are_never_read_alike(readers):
    """Copies that are written and read alike would stay copies for ever."""
    for seed in range(40):
        draw = Draw(seed, "x")
        e = Net2Net().embed(4, 4, frozenset(), draw)
        shares = Net2Net().free(torch.ones(readers, 4, 1, dtype=torch.float64), e, draw)
        for _, channels in e.classes:
            for pair in channels:
                assert not torch.equal(shares[:, pair[0]], shares[:, pair[1]]), seed
