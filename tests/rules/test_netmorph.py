"""NetMorph: zeros on one side, and where zero writers are refused."""

import pytest
import torch

from gnomon.draw import Draw
from gnomon.errors import CannotPreserve
from gnomon.rules import Law, NetMorph

V = torch.ones(2, 3, 1, dtype=torch.float64)


def test_zero_readers_are_zero_behind_the_old_channels():
    e = NetMorph().embed(3, 2, frozenset(), Draw(0, "x"))
    assert e.source.tolist() == [0, 1, 2, 3, 4] and e.fresh == 2
    assert not NetMorph().free(V, e, Draw(0, "x")).any()


def test_zero_writers_carry_nothing_and_may_be_read_by_anything():
    rule = NetMorph(zero="writers")
    e = rule.embed(3, 2, frozenset(), Draw(0, "x"))
    assert e.source.tolist() == [0, 1, 2, -1, -1] and e.fresh == 0
    z = rule.free(V, e, Draw(0, "x"))
    assert not z[:, :3].any() and z[:, 3:].all()


def test_zero_writers_are_refused_behind_what_kills_them():
    law = Law("zero", "relu", "act")
    with pytest.raises(CannotPreserve, match=r"relu in 'act'.*zero='readers'"):
        NetMorph(zero="writers").embed(3, 2, frozenset({law}), Draw(0, "x"))
    assert NetMorph().embed(3, 2, frozenset({law}), Draw(0, "x")).fresh == 2


def test_a_permutation_moves_every_channel_somewhere():
    e = NetMorph(permute=True).embed(5, 5, frozenset(), Draw(0, "x"))
    assert sorted(e.source.tolist()) == list(range(10)) != e.source.tolist()


def test_the_side_must_be_one_of_two():
    with pytest.raises(ValueError, match="zero must be"):
        NetMorph(zero="both")
