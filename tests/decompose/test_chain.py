"""Layers in a row against the layer that they replace."""

import pytest
import torch
from two_layers import change, normal, run

from gnomon.decompose import Geometry, chained, compose
from gnomon.draw import Draw
from gnomon.errors import CannotPreserve

THREE, ONE = (3, 3), (1, 1)


@pytest.mark.parametrize(
    ("widths", "kernels"),
    [
        ((8,), (THREE, ONE)),
        ((32,), (THREE, THREE)),
        ((16, 8), (THREE, ONE, ONE)),
        ((8, 16), (ONE, THREE, ONE)),
        ((64, 16), (THREE, THREE, ONE)),
        ((160, 32), (THREE, THREE, THREE)),
        ((4, 4, 4), (THREE, ONE, ONE, ONE)),
        ((), (THREE,)),
        ((), ((5, 5),)),
    ],
    ids=str,
)
@pytest.mark.parametrize("stride", [1, 2])
def test_a_row_of_layers_runs_as_the_one_did(widths, kernels, stride):
    """All padding in front of the first, the stride on the last, a bias on each."""
    weight, bias = normal(4, 4, 3, 3), normal(4, seed=1)
    chain = chained(weight, widths=widths, kernels=kernels, draw=Draw(0, "c"))
    assert [tuple(w.shape[2:]) for w in chain.weights] == list(kernels)
    assert [w.shape[0] for w in chain.weights] == [*widths, 4]
    assert chain.residual < 1e-12
    inner = [normal(width, seed=2) for width in widths]
    biases = [*inner, chain.last_bias(bias, inner) if inner else bias]
    x = normal(2, 4, 9, 9, seed=3)
    outer = ((1, 1), (0, 1))
    pads = [chain.padding(outer), *[()] * len(widths)]
    strides = [*[()] * len(widths), (stride, stride)]
    new = x
    for w, b, padding, step in zip(chain.weights, biases, pads, strides, strict=True):
        new = run(new, w, Geometry(padding, step), b)
    assert change(new, run(x, weight, Geometry(outer, (stride, stride)), bias)) < 1e-11


def test_groups_split_one_by_one():
    weight = normal(4, 2, 3)
    chain = chained(weight, widths=(16, 8), kernels=((3,), (3,), (1,)), draw=Draw(0, "c"), groups=2)
    total, geometry = chain.weights[0], Geometry(groups=2)
    for w in chain.weights[1:]:
        total, geometry = compose(total, w, geometry, Geometry(groups=2))
    wanted = torch.zeros_like(total)
    wanted[..., chain.off[0] : chain.off[0] + 3] = weight
    assert change(total, wanted) < 1e-12


def test_a_row_through_a_narrow_place_is_refused():
    with pytest.raises(CannotPreserve, match="3x3 - 1x1 - 1x1 with 8 - 3 channels"):
        chained(normal(4, 4, 3, 3), widths=(8, 3), kernels=(THREE, ONE, ONE), draw=Draw(0, "c"))
    with pytest.raises(CannotPreserve):
        chained(normal(4, 4, 5, 5), widths=(), kernels=(THREE,), draw=Draw(0, "c"))
    with pytest.raises(ValueError, match="one width between each two"):
        chained(normal(4, 4, 3, 3), widths=(8,), kernels=(THREE,), draw=Draw(0, "c"))
