"""One thread, because the suite shares its machine; one seed, so that a failure comes again."""

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    torch.manual_seed(0)
