"""Tapes are read when they are asked, and only while the model is the one that was recorded."""

import pytest
import torch
from torch import nn

import gnomon as gn
from gnomon.analysis import groups as finding
from gnomon.analysis.groups import analyse
from gnomon.errors import Stale
from gnomon.models import DigitsNet
from gnomon.recording.tape import calls_of

X = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def network():
    torch.manual_seed(0)
    return DigitsNet(2)


def looks(monkeypatch):
    """How often groups were looked for since."""
    seen = []
    found = finding._groups
    monkeypatch.setattr(finding, "_groups", lambda reading: (seen.append(1), found(reading))[1])
    return seen


def test_a_block_is_put_in_without_looking_for_groups(monkeypatch):
    grower = gn.Grower(network(), X)
    of_the_block = looks(monkeypatch)
    grower.grow(gn.Deepen("stage1"))
    assert len(of_the_block) == 1  # of its own channels, which start as twins
    assert {g.name for g in grower.groups} == {g.name for g in gn.Grower(grower.model, X).groups}


@pytest.mark.parametrize("part", ["groups", "context", "norms", "links", "unreached"])
def test_what_was_not_read_of_a_model_that_changed_is_refused(part):
    model = network()
    analysis = analyse(model, calls_of(X), {})
    gn.Grower(model, X).grow(gn.Widen("stage2", add=2))
    with pytest.raises(Stale, match="changed since it was analysed"):
        getattr(analysis, part)


def test_a_replaced_parameter_of_the_same_shape_is_a_change_too():
    model = network()
    analysis = analyse(model, calls_of(X), {})
    model.head.weight = nn.Parameter(model.head.weight.detach().clone())
    with pytest.raises(Stale):
        analysis.groups  # noqa: B018


def test_an_analysis_that_was_handed_out_outlives_a_growth():
    hidden = "stage2.body.conv1"
    grower = gn.Grower(network(), X)
    analysis = grower.analysis
    grower.grow(gn.Widen(hidden, add=2))
    before = {g.name: g.width for g in analysis.groups}
    after = {g.name: g.width for g in grower.groups}
    assert after == {**before, hidden: before[hidden] + 2}
    assert analysis.norms is not None and not analysis.unreached


def test_what_was_recorded_before_training_is_recorded_again_when_somebody_asks():
    model = network()
    grower = gn.Grower(model, X)
    with torch.no_grad():
        model.head.weight.mul_(2).add_(1)
    model.eval()
    shown = grower.analysis.recordings[0].outputs[0]
    assert torch.equal(shown, model(X))
    assert grower.analysis is grower.analysis
