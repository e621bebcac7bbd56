"""The matrices that turn a stream, and the rule that draws them."""

import pytest
import torch

import gnomon as gn
from gnomon.draw import Draw
from gnomon.embedding import Embedding
from gnomon.isometries import isometry
from gnomon.planning.notation import embedding, embedding_data
from gnomon.rules import Law
from gnomon.rules.names import RULES, layers_beside

LAYER = Law("uniform", "LayerNorm", "norm", "layer")


@pytest.mark.parametrize(("n", "size"), [(1, 4), (2, 3), (5, 6), (6, 40), (48, 49)])
def test_a_turn_is_a_scaled_isometry_that_keeps_the_mean(n, size):
    t = isometry(7, n, size)
    assert t.shape == (size, n) and t.dtype == torch.float64
    assert torch.allclose(t.T @ t, size / n * torch.eye(n).double(), rtol=0, atol=1e-13)
    assert torch.allclose(t.sum(1), torch.ones(size).double(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("norm", [torch.nn.functional.layer_norm, torch.nn.functional.rms_norm])
def test_norms_do_not_notice_a_turn(norm):
    t, x = isometry(3, 5, 8), torch.randn(4, 5).double()
    assert torch.allclose(norm(x @ t.T, (8,), eps=0.1), norm(x, (5,), eps=0.1) @ t.T, atol=1e-14)


def test_a_turn_mixes_every_channel_into_every_other_and_depends_on_its_key_alone():
    t = isometry(3, 6, 9)
    assert float(t.abs().min()) > 1e-4
    state = torch.get_rng_state()
    assert torch.equal(t, isometry(3, 6, 9)) and torch.equal(state, torch.get_rng_state())
    assert not torch.allclose(t, isometry(4, 6, 9))


def test_turns_are_drawn_evenly():
    """Over many keys every entry beside the mean is as often above zero as below."""
    several = torch.stack([isometry(key, 3, 4) for key in range(400)])
    assert float((several.mean(0) - 1 / 3).abs().max()) < 0.12
    assert float((several.var(0) - (4 / 3 - 4 / 9) / 4).abs().max()) < 0.06


def test_an_embedding_remembers_its_turn_in_json():
    e = gn.Isometry().embed(4, 2, frozenset({LAYER}), Draw(0, "stream", -1))
    again = embedding(embedding_data(e))
    assert isinstance(again, Embedding) and again.turn == e.turn is not None
    assert torch.equal(again.matrix, e.matrix) and e.matrix.shape == (6, 4)


@pytest.mark.parametrize(
    ("laws", "reason"),
    [
        (frozenset(), "no LayerNorm or RMSNorm averages these channels"),
        (frozenset({Law("uniform", "GroupNorm", "norm")}), "GroupNorm in 'norm' averages"),
        (frozenset({LAYER, Law("uniform", "mean", "there")}), "mean in 'there' averages"),
    ],
)
def test_only_streams_under_a_norm_are_turned(laws, reason):
    with pytest.raises(gn.CannotPreserve, match=reason):
        gn.Isometry().embed(4, 2, laws, Draw(0, "stream", -1))


def test_the_command_line_knows_it_by_name():
    assert RULES["isometry"]() == gn.Isometry()
    assert layers_beside("isometry") == gn.R2R()
