"""Two Lightning processes under DDP grow alike, also when resumed."""

import pytest
import torch

pytest.importorskip("lightning")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

import lightning_ranks  # noqa: E402


def test_two_processes_stay_alike_and_a_resumed_run_ends_with_the_same_bits(tmp_path):
    whole = lightning_ranks.run(tmp_path / "whole", saved={})
    paths = sorted((tmp_path / "whole").glob("epoch*"), key=lambda p: p.stat().st_mtime_ns)
    assert whole["net.0.weight"].shape == (12, 6) and "net.6.weight" in whole
    again = lightning_ranks.run(tmp_path / "again", ckpt_path=paths[1])
    assert again.keys() == whole.keys()
    assert all(torch.equal(value, again[name]) for name, value in whole.items())
