"""Every morph on every network of the papers: the function is kept, and new parameters learn."""

import pytest
import torch
from torch import nn

import gnomon as gn
from contracts import answers, change, loss
from gnomon.models import VGG16, CifarQuick, DigitsNet, R2RNet, ResNetCifar10, SmallConv
from toys import shake

# The network, the side of its images, and a layer and a place in it.
NETWORKS = {
    "DigitsNet": (lambda: DigitsNet(4, channels=3), 8, "stage1.body.conv1", "stage1"),
    "ResNetCifar10": (lambda: ResNetCifar10(1 / 16), 16, "stage2.0.body.conv2", "stage1.0"),
    "SmallConv": (lambda: SmallConv(4, 6, size=8), 8, "features.conv", "features.relu"),
    "R2RNet": (lambda: R2RNet((4, 6, 4), size=16), 16, "stages.0.0.body.conv2", "stages.1.0"),
    "CifarQuick": (
        lambda: CifarQuick((((5, 4),), ((5, 4),), ((5, 6),)), size=16),
        16,
        "features.group2.conv1",
        "features.group1.act1",
    ),
    "VGG16": (
        lambda: VGG16(((4, 4), (6, 6), (8,)), hidden=8, classes=4),
        16,
        "features.5",
        "features.3",
    ),
}
MORPHS = {
    "widen": lambda layer, place: gn.Widen("*", by=1.5),
    "deepen": lambda layer, place: gn.Deepen(place, count=2),
    "identity": lambda layer, place: gn.Deepen(place, rule=gn.Net2Net()),
    "factor": lambda layer, place: gn.Factor(layer, activation=nn.ReLU()),
    "gate": lambda layer, place: gn.Factor(layer, activation=nn.Tanh(), norm=True),
    "branch": lambda layer, place: gn.Branch(layer, paths=3),
    "zero path": lambda layer, place: gn.Branch(layer, paths=1, zero=4),
    "enlarge": lambda layer, place: gn.Enlarge(layer, kernel=8),
}


@pytest.mark.parametrize("morph", MORPHS)
@pytest.mark.parametrize("network", NETWORKS)
def test_every_morph_keeps_every_network(network, morph):
    build, side, layer, place = NETWORKS[network]
    torch.manual_seed(0)
    model = shake(build().double())
    x = torch.randn(6, 3, side, side, dtype=torch.float64)
    before = [answers(model, x, mode) for mode in (False, True)]
    old = {id(p) for p in model.parameters()}
    receipt = gn.Grower(model, x).grow(MORPHS[morph](layer, place))
    assert change(before[0], answers(model, x, False)) <= 1e-11
    if receipt.plan.claim == "expectation":
        assert 0 < receipt.expectation < 1
    else:
        assert change(before[1], answers(model, x, True)) <= 1e-11
    optimizer, alive = torch.optim.SGD(model.parameters(), lr=1e-4), set()
    for _ in range(3):
        optimizer.zero_grad()
        loss(model.train(), x).backward()
        alive |= {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
        optimizer.step()
    new = {n for n, p in model.named_parameters() if id(p) not in old}
    assert (morph in ("widen", "enlarge")) == (not new)
    assert new <= alive, new - alive
