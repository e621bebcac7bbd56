"""An exported member is a network like any other."""

import copy
import pickle

import pytest
import torch
from small_search import IMAGES, change, data, family, trained
from torch import nn

from gnomon.blocks import R2RBlock
from gnomon.evolution import AnyModel, export
from gnomon.evolution.mutations import WidenGroup
from gnomon.evolution.population.birth import child, first
from gnomon.models import DigitsNet


@pytest.mark.parametrize("native", [False, True])
def test_an_exported_member_computes_the_same_and_shares_nothing(native):
    members = family(count=5)
    trained(IMAGES, members, steps=8)
    alone = export(members[-1], native=native)
    assert change(members[-1].network, alone, data(IMAGES, 7)[0]) <= 1e-12
    theirs = {p.data_ptr() for m in members for p in m.network.parameters()}
    assert not theirs & {p.data_ptr() for p in alone.parameters()}
    assert any(isinstance(m, R2RBlock) for m in alone.modules()) is not native
    assert pickle.loads(pickle.dumps(alone)) is not None and copy.deepcopy(alone) is not None


def test_weights_that_were_computed_from_blocks_are_whole_again():
    x = torch.randn(6, 1, 8, 8).double()
    space = AnyModel(lambda: DigitsNet(2).double(), x, by=0.5)
    base = first(space, seed=0)
    wide = child(space, base, WidenGroup("stage1.body.conv1", 2), id=1, born=1, seed=0)
    alone = export(wide)
    assert type(alone.stage1.body.conv1) is nn.Conv2d
    assert alone.stage1.body.conv1.out_channels == 4
    assert change(wide.network, alone, x) <= 1e-12
