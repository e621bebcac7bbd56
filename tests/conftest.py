"""One thread: the suite shares its machine, and sums then come out alike everywhere."""

import torch

torch.set_num_threads(1)
