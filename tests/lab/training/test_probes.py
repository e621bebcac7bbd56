"""Histograms of weights, zeros counted by themselves; snapshots of the right seed and moment."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import gnomon as gn
from gnomon.lab.errors import LabError
from gnomon.lab.training.probes import snapshot, weight_histogram


def test_every_entry_is_in_a_bin():
    found = weight_histogram(nn.Linear(7, 5), "weight", bins=9)
    assert sum(found.counts) == 35 and len(found.edges) == 10 and found.zeros == 0


def test_identity_layers_are_zeros_and_factors_are_not():
    torch.manual_seed(0)
    x = torch.randn(4, 6)
    identity, factor = nn.Sequential(nn.Linear(6, 8), nn.ReLU()), nn.Sequential(nn.Linear(6, 8))
    gn.Grower(identity, x).grow(gn.Deepen("1", gn.Net2Net()))
    gn.Grower(factor, x).grow(gn.Factor("0"))
    assert weight_histogram(identity, "2.layer.weight").zeros == 8 * 7
    assert weight_histogram(factor, "0.layer2.weight").zeros == 0


def test_a_name_that_is_not_there_is_an_error():
    with pytest.raises(LabError, match="no parameter 'x'"):
        weight_histogram(nn.Linear(2, 2), "x")


@pytest.fixture
def runs(tmp_path):
    """Two seeds of an arm; seed 2 is not finished, 10 and 3 are."""
    for seed, names in {
        2: ["growth-4"],
        10: ["final"],
        3: ["growth-10", "growth-4", "final"],
    }.items():
        place = tmp_path / "a-b" / f"seed-{seed}"
        place.mkdir(parents=True)
        for name in names:
            save_file({"w": torch.tensor([seed, len(name)])}, place / f"{name}.safetensors")
    return tmp_path


def test_a_snapshot_is_of_the_first_finished_seed_and_its_first_growth(runs):
    assert snapshot(runs, "a/b", "growth", "w").tolist() == [3, len("growth-4")]
    assert snapshot(runs, "a/b", "final", "w").tolist() == [3, len("final")]


def test_a_snapshot_that_is_not_there_is_an_error(runs):
    with pytest.raises(LabError, match="No run of 'other'"):
        snapshot(runs, "other", "final", "w")
    with pytest.raises(LabError, match="'x' cannot be read"):
        snapshot(runs, "a/b", "final", "x")
    (runs / "a-b/seed-3/final.safetensors").unlink()
    with pytest.raises(LabError, match="no weights of its growth"):
        snapshot(runs, "a/b", "growth", "w")
