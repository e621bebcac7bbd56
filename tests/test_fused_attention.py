"""Numbers that the code computes of widths: 3 * size with a part that is turned, C // heads."""

import pytest
import torch

import gnomon as gn
from contracts import answers, change, loss
from toys import TOYS
from untouched import bits

RULES = [gn.R2R(), gn.Net2Net(), gn.NetMorph(), gn.Hybrid()]


def made(name):
    return TOYS[name].model(), TOYS[name].example()


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("part", [0, 1], ids=["turned", "the rest"])
def test_both_parts_of_a_head_grow_where_the_code_says_three_times_its_size(rule, part):
    model, x = made("attention_partly_turned")
    old = [answers(model, x, training) for training in (False, True)]
    grower = gn.Grower(model, x)
    for _ in range(2):
        names = [g.name for g in grower.groups if g.kind == "head dimension"]
        assert len(names) == 2
        before = model.size
        grower.grow(gn.Widen(names[part], by=2, rule=rule))
        assert model.size > before and model.scale == 6**-0.5
        for a, training in zip(old, (False, True), strict=True):
            assert change(a, answers(model, x, training)) <= 1e-12
    assert model.qkv.out_features == 2 * 3 * model.size
    loss(model, x).backward()
    assert all(p.grad.abs().max() > 0 for p in model.parameters())


def test_a_tied_stream_takes_heads_along():
    model, i = made("tied_decoder")
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    loss(model, i).backward()
    optimizer.step()
    optimizer.zero_grad()
    old, grower = answers(model, i, False), gn.Grower(model, i, optimizer)
    for width in (16, 32):
        stream = next(g for g in grower.groups if g.name == "tokens")
        assert stream.verdict == "tied" and stream.rules == ("Net2Net",) and len(stream.along) == 2
        grower.grow(gn.Widen("tokens", by=2, rule=gn.Net2Net()))
        assert model.attention[0].heads == width // 4 and model.head.weight is model.tokens.weight
        assert model.tokens.weight.shape == (7, width)
        assert change(old, answers(model, i, False)) <= 1e-12
    loss(model, i).backward()
    assert all(p.grad.abs().max() > 0 for p in model.parameters())
    optimizer.step()


def test_rules_that_heads_do_not_take_are_refused_with_those_that_both_do():
    model, i = made("tied_decoder")
    before = bits(model.state_dict())
    with pytest.raises(gn.CannotPreserve, match=r"along with 'tokens'.*Both grow by: Net2Net\(\)"):
        gn.Grower(model, i).grow(gn.Widen("tokens", by=2, rule=gn.NetMorph(zero="writers")))
    assert bits(model.state_dict()) == before


def test_heads_take_the_tied_stream_along():
    model, i = made("tied_decoder")
    old, grower = answers(model, i, False), gn.Grower(model, i)
    heads = next(g for g in grower.groups if g.kind == "heads")
    assert heads.along == ("tokens",)
    grower.grow(gn.Widen(heads.name, by=2, rule=gn.Net2Net()))
    assert change(old, answers(model, i, False)) <= 1e-12 and model.attention[1].heads == 4
