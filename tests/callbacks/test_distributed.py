"""Two processes grow alike, refuse alike, and train as one does."""

import pytest
import ranks
import torch

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed"),
]


def test_ranks_with_other_examples_and_random_numbers_grow_to_the_same_bits(tmp_path):
    ranks.run(ranks.grow_and_train, tmp_path)


def test_what_one_rank_refuses_all_refuse(tmp_path):
    ranks.run(ranks.refuse_alike, tmp_path)


def test_two_processes_train_as_one_with_the_same_global_batch(tmp_path):
    ranks.run(ranks.train_by_a_timeline, tmp_path)
    together, alone = torch.load(tmp_path / "losses.pt"), ranks.train_alone()
    assert len(together) == 100
    assert max(abs(a - b) for a, b in zip(together, alone, strict=True)) < 1e-6
