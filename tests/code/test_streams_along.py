"""Streams of which the code makes others grow along: found by following what fails."""

import pytest
import torch
from test_partners import X, along, made, moved, widened, widths

import gnomon as gn
import gnomon.code.ties
from toy_ties import Pyramid, Written


def heads_and_reductions(stage, blocks):
    both = {f"{stage}.{i}.attention.q[0]" for i in range(blocks)}
    return both | {f"{stage}.{i}.attention.reduce" for i in range(blocks)}


def test_a_stream_takes_heads_and_other_streams_along():
    found = along(gn.Grower(made(Pyramid), X))
    assert set(found["enter"]) == heads_and_reductions("first", 2)
    assert set(found["between"]) == {
        *heads_and_reductions("second", 1), "second.1.attention.qkv[0]"
    }  # fmt: skip
    assert found["first.1.attention.reduce"] == ("enter",)


@pytest.mark.parametrize("name", ["enter", "first.1.attention.reduce", "first.0.attention.q[0]"])
def test_each_of_them_takes_all_the_others(name):
    grower, receipt = widened(Pyramid, name, by=2, rule=gn.Net2Net())
    assert widths(receipt).keys() == {"enter", *heads_and_reductions("first", 2)}
    blocks = [*grower.model.first, *grower.model.second]
    assert [block.attention.num_heads for block in blocks] == [4, 4, 3, 3]
    assert all(group.verdict == "normed" for group in grower.groups if group.along)


def test_a_whole_pyramid_grows():
    grower, _ = widened(Pyramid, "*", by=2, rule=gn.Net2Net())
    assert [grower.model.enter.out_features, grower.model.between.out_features] == [8, 18]


def test_a_stream_whose_width_is_written_down_is_refused_early_and_the_rest_grows():
    grower, receipt = widened(Written, "*", by=2, rule=gn.Net2Net())
    refused = {g.name: g.reason for g in grower.groups if g.verdict == "refused"}
    assert "a number that is not kept in an attribute" in refused["enter"]
    assert widths(receipt) == {"hidden": (4, 8)} or widths(receipt) == {"hidden[0]": (4, 8)}
    with pytest.raises(gn.Unsupported, match=r"'enter' cannot grow: .*reshape|view"):
        grower.plan(gn.Widen("enter", by=2, rule=gn.Net2Net()))


def test_a_search_that_ends_too_soon_says_what_it_knows(monkeypatch):
    """A stream that fails alone is refused; what was not tried is found out by growing."""
    monkeypatch.setattr(gnomon.code.ties, "_STREAMS", (0, 300, 30))
    groups = {g.name: g for g in gn.Grower(made(Pyramid), X).groups}
    assert groups["enter"].verdict == groups["between"].verdict == "refused"
    monkeypatch.setattr(gnomon.code.ties, "_LONG", 0)
    groups = {g.name: g for g in gn.Grower(made(Pyramid), X).groups}
    assert groups["enter"].verdict == "normed"
    with pytest.raises(gn.Unsupported):
        widened(Pyramid, "enter", by=2, rule=gn.Net2Net())


def test_a_stream_grows_twice_by_copies():
    model = made(Pyramid)
    before = model(X).detach()
    grower = gn.Grower(model, X)
    for _ in range(2):
        grower.grow(gn.Widen("enter", by=2, rule=gn.Net2Net()))
    assert model.enter.out_features == 16
    assert moved(model, before) <= 1e-12
    loss = model(X).square().sum()
    loss.backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters())
