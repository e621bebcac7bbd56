"""R2RNet: the numbers of parameters that paper 002 implies, and that it grows."""

import pytest
import torch

import gnomon as gn
from contracts import answers, change
from gnomon.models import R2RNet
from toys import shake


@pytest.mark.parametrize(
    ("widths", "parameters"),
    [((32, 64, 128), 579_386), ((16, 32, 64), 259_226), ((32, 64, None), 238_202)],
)
def test_parameters(widths, parameters):
    assert sum(p.numel() for p in R2RNet(widths).parameters()) == parameters


def test_the_logits_of_any_image_size():
    assert R2RNet((4, 4, 4), channels=1, size=16, classes=7)(torch.randn(2, 1, 16, 16)).shape == (
        2,
        7,
    )


@pytest.mark.parametrize(
    "morph",
    [
        gn.Widen("*", by=1.5),
        gn.Deepen("stages.1.0"),
        gn.Deepen("stages.0.1"),
        gn.Enlarge("stages.0.0.body.conv4", kernel=3),
    ],
    ids=str,
)
def test_every_morph_keeps_the_function(morph):
    torch.manual_seed(0)
    model = shake(R2RNet((4, 6, 4), size=16).double())
    x = torch.randn(4, 3, 16, 16).double()
    before = [answers(model, x, mode) for mode in (False, True)]
    gn.Grower(model, x).grow(morph)
    for mode, old in zip((False, True), before, strict=True):
        assert change(old, answers(model, x, mode)) <= 1e-12
