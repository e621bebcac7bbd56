"""CharGPT: causal, and every width inside of it can be grown."""

import pytest
import torch

import gnomon as gn
from gnomon.models import CharGPT


def test_no_position_sees_a_later_one():
    torch.manual_seed(0)
    model, x = CharGPT(20, width=16, block=12).double().eval(), torch.randint(20, (3, 12))
    later = x.clone()
    later[:, 7:] = (later[:, 7:] + 1) % 20
    before, after = model(x), model(later)
    assert torch.equal(before[:, :7], after[:, :7])
    assert not torch.allclose(before[:, 7:], after[:, 7:])


def test_sizes_are_those_of_the_experiments():
    counts = [
        sum(p.numel() for p in CharGPT(65, **sizes).parameters())
        for sizes in ({}, {"width": 48}, {"layers": 4}, {"hidden": 256})
    ]
    assert counts == [31_745, 66_017, 57_153, 48_385]


@pytest.mark.parametrize("rule", [gn.R2R(), gn.Net2Net(), gn.NetMorph()], ids=repr)
def test_its_feed_forward_networks_grow_exactly(rule):
    torch.manual_seed(0)
    model, x = CharGPT(20, width=16, block=12).double(), torch.randint(20, (3, 12))
    before = model(x).detach()
    gn.Grower(model, x).grow(gn.Widen("blocks.*.feed.0", by=2, rule=rule))
    assert model.blocks[1].feed[0].out_features == 128
    assert float((model(x) - before).abs().max().detach()) < 1e-12
