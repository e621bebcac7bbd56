"""Groups that one number ties: found early, grown along with each other, in a bounded search."""

import copy

import pytest
import torch
from torch import nn

import gnomon as gn
from gnomon.code.prediction import Prediction
from toy_ties import Cascade, Cascades, Parts, Window, Windows
from toys import shake

X = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def made(toy):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return shake(toy().double())


def along(grower):
    return {g.name: g.along for g in grower.groups if g.along}


def moved(model, before, inputs=X):
    return float((model(inputs) - before).detach().abs().max())


def widened(toy, name, inputs=X, **amount):
    """The grower and the receipt after one group of a toy was grown, in both modes to rounding."""
    model = made(toy)
    before = {mode: model.train(mode)(inputs).detach() for mode in (True, False)}
    grower = gn.Grower(model, inputs)
    receipt = grower.grow(gn.Widen(name, **amount))
    assert all(moved(model.train(mode), y, inputs) <= 1e-12 for mode, y in before.items())
    return grower, receipt


def widths(receipt):
    return {w.group: (w.old, w.new) for w in receipt.plan.widths}


def test_parts_of_splits_that_share_a_number_are_named_along_each_other():
    found = along(gn.Grower(made(Cascades), X))
    assert found["enter"] == ("first.0.heads.1[1]", "first.1.heads.1[1]")
    assert found["second.1.heads.1[1]"] == ("between",)
    assert found["first.0.heads.0"] == ("first.0.heads.1[0]",)  # one key_dim for both heads


@pytest.mark.parametrize("name", ["between", "second.0.heads.1[1]"])
def test_a_stream_and_the_last_values_grow_together_in_all_blocks(name):
    grower, receipt = widened(Cascades, name, add=2)
    assert widths(receipt)["second.0.heads.1[1]"] == (5, 7)
    assert widths(receipt)["second.1.heads.1[1]"] == (5, 7) and len(widths(receipt)) == 3
    assert [block.val_dim for block in grower.model.second] == [7, 7]
    assert [block.val_dim for block in grower.model.first] == [2, 2]
    assert any("grow along with" in note for note in receipt.plan.notes)


def test_one_number_for_the_keys_of_all_heads_takes_them_along():
    grower, receipt = widened(Cascades, "first.1.heads.0", add=2)
    assert widths(receipt) == {"first.1.heads.0": (3, 5), "first.1.heads.1[0]": (3, 5)}
    assert [block.key_dim for block in grower.model.first] == [3, 5]


def test_all_at_once_finds_the_numbers_of_the_last_block_of_each_stage():
    model = made(Cascades)
    before, grower = model(X).detach(), gn.Grower(model, X)
    names = [g.name for g in grower.groups if g.verdict == "growable"]
    grower.grow(gn.Widen(names, add=2))
    assert [b.val_dim for b in (*model.first, *model.second)] == [4, 4, 7, 7]
    assert moved(model, before) <= 1e-12


def test_a_part_of_a_stream_under_a_norm_takes_the_values_of_its_stage_along():
    found = along(gn.Grower(made(Parts), X))
    assert found["enter[0]"] == ("first.0.qkv[1]", "first.1.qkv[1]")
    assert found["between[0]"] == ("second.qkv[1]",)
    grower, _ = widened(Parts, "first.1.qkv[1]", by=2, rule=gn.Net2Net())
    assert [(b.part, b.width) for b in grower.model.first] == [(4, 7), (4, 7)]
    assert (grower.model.second.part, grower.model.second.width) == (4, 7)  # as they were


def test_the_rest_of_a_split_grows_alone():
    grower, receipt = widened(Parts, "enter[1]", add=1)
    assert len(widths(receipt)) == 1
    assert [(b.part, b.width) for b in grower.model.first] == [(2, 6), (2, 6)]


@pytest.mark.parametrize("name", ["enter", "blocks.1.attention.qkv[0]"])
def test_a_stream_takes_the_heads_of_all_its_blocks_whatever_their_class(name):
    heads = tuple(f"blocks.{i}.attention.qkv[0]" for i in range(3))
    grower, _ = widened(Windows, name, by=2, rule=gn.Net2Net())
    assert along(grower)["enter"] == heads
    assert [b.attention.num_heads for b in grower.model.blocks] == [4, 4, 4]


def test_heads_of_no_stream_that_can_grow_are_refused():
    model = Window(6, 2, False).double()  # its stream is the model's own input
    found = gn.Grower(model, torch.cat([X, X[..., :1]], -1)).groups
    assert [g.kind for g in found if "ties" in g.reason] == ["heads", "head dimension"]
    assert all(g.verdict == "refused" for g in found)


class Literal(Cascade):
    """The width of keys is written down, so that no partner helps."""

    def forward(self, x):
        parts, sizes = x.chunk(2, -1), [3, 3, self.val_dim]
        done = [h(part).split(sizes, -1) for part, h in zip(parts, self.heads, strict=True)]
        mixed = [(q @ k.transpose(-2, -1)).softmax(-1) @ v for q, k, v in done]
        return x + self.out(torch.cat(mixed, -1).tanh())


def test_a_literal_in_a_split_is_refused_and_the_model_left_alone():
    model = nn.Sequential(nn.Linear(5, 4), Literal(4, 3), nn.Linear(4, 2)).double()
    before, held = copy.deepcopy(model.state_dict()), dict(model[1].__dict__)
    grower = gn.Grower(model, X)
    keys = [g for g in grower.groups if g.kind == "query-key dimension"]
    assert len(keys) == 2 and all(g.verdict == "refused" for g in keys)
    assert all("code of '1' ties" in g.reason for g in keys)
    with pytest.raises(gn.Unsupported, match=r"not kept in an attribute"):
        grower.grow(gn.Widen(keys[0].name, add=1))
    assert dict(model[1].__dict__) == held
    assert all(torch.equal(x, before[n]) for n, x in model.state_dict().items())


def recordings(monkeypatch, toy):
    """How many times a search runs a model."""
    ran, compare = [], Prediction._compare

    def counted(self, *args, **kwargs):
        ran.append(1)
        return compare(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Prediction, "_compare", counted)
        found = along(gn.Grower(made(toy), X))
    return len(ran), found


def test_more_blocks_of_one_class_cost_no_more_trials(monkeypatch):
    few, _ = recordings(monkeypatch, lambda: Windows(3))
    many, found = recordings(monkeypatch, lambda: Windows(9))
    assert len(found["enter"]) == 9
    assert many <= few


def test_blocks_that_go_on_with_a_mask_are_answered_with_those_that_do_not(monkeypatch):
    plain, _ = recordings(monkeypatch, lambda: Windows(4, masked=False))
    masked, found = recordings(monkeypatch, lambda: Windows(4))
    assert len(found["enter"]) == 4 and masked <= plain


def test_numbers_that_nothing_reads_cost_one_more_trial_at_each_fault(monkeypatch):
    def crowded():
        model = Windows(3)
        for i in range(20):
            setattr(model, f"idle_{i}", 6)
        return model

    few, _ = recordings(monkeypatch, lambda: Windows(3))
    many, found = recordings(monkeypatch, crowded)
    assert len(found["enter"]) == 3
    assert many <= few
