"""Parallel paths, added or joined, against the layer that they replace."""

import pytest
import torch
from two_layers import change, normal, run

from gnomon.decompose import Geometry, added, joined
from gnomon.draw import Draw
from gnomon.errors import CannotPreserve

OUTER = ((4, 4), (4, 3))


def outputs(x, paths, dilation=(), stride=(), groups=1):
    pads = paths.padding(OUTER, dilation)
    return [
        run(x, w, Geometry(pad, stride, dilation, groups))
        for w, pad in zip(paths.weights, pads, strict=True)
    ]


@pytest.mark.parametrize("dilation", [(1, 1), (2, 2)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 3)])
@pytest.mark.parametrize(
    "kernels",
    [((3, 3),) * 3, ((1, 1), (3, 3)), ((5, 5), (3, 1), (1, 1)), ((2, 2), (4, 4))],
    ids=str,
)
def test_added_paths_run_as_the_layer_did(kernels, stride, dilation):
    weight = normal(4, 3, 3, 3)
    paths = added(weight, kernels=kernels, draw=Draw(0, "s"))
    assert [tuple(w.shape[2:]) for w in paths.weights] == list(kernels)
    x = normal(2, 3, 11, 11, seed=1)
    old = run(x, weight, Geometry(OUTER, stride, dilation))
    assert change(sum(outputs(x, paths, dilation, stride)), old) < 1e-13


def test_a_small_path_that_would_have_to_crop_is_refused():
    paths = added(normal(4, 3, 3, 3), kernels=((3, 3), (1, 1)), draw=Draw(0, "s"))
    with pytest.raises(CannotPreserve, match=r"a path of 1x1 taps .* \[\(-1, -1\), \(0, 0\)\]"):
        paths.padding(((0, 0), (1, 1)))


def test_without_noise_equal_paths_are_equal_shares():
    weight = normal(4, 3, 3, 3)
    paths = added(weight, kernels=((3, 3),) * 3, draw=Draw(0, "s"), noise=0.0)
    for one in paths.weights:
        assert change(one, weight / 3) < 1e-15


def test_noise_has_the_deviation_of_the_layer_and_paths_differ():
    weight = normal(16, 16, 3, 3) * 0.1
    paths = added(weight, kernels=((1, 1), (3, 3), (3, 3)), draw=Draw(0, "s"), noise=0.5)
    assert float(paths.weights[0].std()) == pytest.approx(0.05, rel=0.1)
    assert float((paths.weights[1] - weight / 3).std()) == pytest.approx(0.05, rel=0.1)


def test_linear_layers_and_groups_split_as_well():
    paths = added(normal(4, 3), kernels=((), ()), draw=Draw(0, "s"))
    assert change(sum(paths.weights), normal(4, 3)) < 1e-15
    weight = normal(4, 2, 3, 3)
    paths = added(weight, kernels=((3, 3), (1, 1)), draw=Draw(0, "s"))
    x = normal(2, 4, 9, 9)
    new = sum(outputs(x, paths, groups=2))
    assert change(new, run(x, weight, Geometry(OUTER, groups=2))) < 1e-13


@pytest.mark.parametrize("stride", [(1, 1), (2, 2)])
@pytest.mark.parametrize(
    ("widths", "kernels"),
    [((2, 3), ((3, 3), (3, 3))), ((3, 2, 6), ((1, 1), (3, 3), (3, 3))), ((5, 6), ((1, 1), (5, 5)))],
    ids=str,
)
def test_joined_paths_and_their_mix_run_as_the_layer_did(widths, kernels, stride):
    weight = normal(4, 3, 3, 3)
    paths = joined(weight, widths=widths, kernels=kernels, draw=Draw(0, "s"))
    assert paths.mix.shape[:2] == (4, sum(widths)) and paths.mix.all()
    assert all(w.all() for w in paths.weights)
    x = normal(2, 3, 11, 11, seed=1)
    new = run(torch.cat(outputs(x, paths, stride=stride), 1), paths.mix)
    assert change(new, run(x, weight, Geometry(OUTER, stride))) < 1e-12


def test_paths_that_cannot_hold_the_layer_are_refused():
    weight = normal(4, 3, 3, 3)
    with pytest.raises(CannotPreserve, match="Make one of them 3x3"):
        added(weight, kernels=((1, 1), (3, 1)), draw=Draw(0, "s"))
    with pytest.raises(CannotPreserve, match="Give them 4 channels together"):
        joined(weight, widths=(8, 3), kernels=((1, 1), (3, 3)), draw=Draw(0, "s"))
