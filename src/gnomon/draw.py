"""Random numbers that depend on what they are for, and on nothing else.

A stream is keyed by (seed, tensor name, dimension): the same plan gives an EMA copy or another
rank the same draws, in whatever order tensors are grown. Streams are drawn on the CPU in float64,
from generators of their own; the global generators are never touched.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor


class Draw:
    """One keyed stream of random numbers, scaled to a standard deviation.

    seconds: what the draws of this stream took, so that growth can be timed without them.
    """

    def __init__(self, seed: int, name: str, dim: int = 0, std: float = 1.0) -> None:
        self._key = f"{seed}|{name}|{dim}"
        self.std = std
        self.seconds = 0.0

    @cached_property
    def _generator(self) -> torch.Generator:
        """Made when it is asked: of many streams nothing is drawn."""
        key = hashlib.blake2b(self._key.encode(), digest_size=8).digest()
        return torch.Generator().manual_seed(int.from_bytes(key, "big") >> 1)

    def weights(self, shape: Sequence[int]) -> Tensor:
        """Uniform on ±std·sqrt(3), which has exactly this standard deviation. float64."""
        start = time.perf_counter()
        reach = self.std * math.sqrt(3.0)
        values = torch.empty(tuple(shape), dtype=torch.float64)
        values.uniform_(-reach, reach, generator=self._generator)
        self.seconds += time.perf_counter() - start
        return values

    def below(self, limit: int, shape: Sequence[int]) -> Tensor:
        """Integers in [0, limit). int64."""
        start = time.perf_counter()
        values = torch.randint(limit, tuple(shape), generator=self._generator)
        self.seconds += time.perf_counter() - start
        return values

    def permutation(self, n: int) -> Tensor:
        """A random order of 0 .. n-1. int64."""
        return torch.randperm(n, generator=self._generator)


@contextlib.contextmanager
def seeded_constructors(seed: int) -> Iterator[None]:
    """Seed what constructors draw from, on the default device, and put it back."""
    device = torch.get_default_device()
    if device.type in ("cpu", "meta"):  # (torch.manual_seed would queue a call for every other)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            yield
        return
    module = torch.get_device_module(device)
    index = module.current_device() if device.index is None else device.index
    with torch.random.fork_rng(devices=[index], device_type=device.type):
        torch.manual_seed(seed)
        yield
