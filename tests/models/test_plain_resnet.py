"""ResNetCifar without residual connections: what paper 000 gives to Net2Net."""

import pytest
import torch

import gnomon as gn
from contracts import answers, change
from gnomon.blocks import Residual
from gnomon.models import ResNetCifar10, ResNetCifar18
from toys import shake


def test_only_the_one_shortcut_with_weights_is_missing():
    plain, usual = (ResNetCifar18(1 / 8, residual=r) for r in (False, True))
    assert not any(isinstance(m, Residual) for m in plain.modules())
    counts = [sum(p.numel() for p in m.parameters()) for m in (plain, usual)]
    assert counts[1] - counts[0] == 8 * 16 + 2 * 16  # a 1x1 convolution and its norm
    assert plain(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize(
    "morph",
    [gn.Widen("*", by=1.5, rule=gn.Net2Net()), gn.Deepen("stage1.1.relu2", gn.Net2Net(), count=2)],
    ids=str,
)
def test_net2net_keeps_its_function(morph):
    torch.manual_seed(0)
    model = shake(ResNetCifar10(1 / 16, residual=False).double())
    x = torch.randn(6, 3, 16, 16).double()
    before = answers(model, x, False)
    gn.Grower(model, x).grow(morph)
    assert change(before, answers(model, x, False)) <= 1e-12
