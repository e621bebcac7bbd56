"""Random choices that depend on what they are for, and on nothing else.

Every stream is keyed, such as (seed, "round 3", "train"): a round that is done again after a stop
makes the same choices, and no state has to be kept. The global generators are left as they were.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence

import torch


def number(*key: object) -> int:
    """A whole number below 2**63 that belongs to this key."""
    text = "|".join(map(str, key)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


class Chance:
    """One keyed stream of choices.

    generator: for whatever else draws for the same purpose, such as a minibatch.
    """

    def __init__(self, *key: object) -> None:
        self.generator = torch.Generator(device="cpu").manual_seed(number(*key))

    def below(self, n: int) -> int:
        """A whole number in [0, n), all alike."""
        return int(torch.randint(n, (1,), generator=self.generator, device="cpu"))

    def weighted(self, weights: Sequence[float]) -> int:
        """An index, with odds in proportion to the weights."""
        odds = torch.tensor(weights, dtype=torch.float64, device="cpu")
        return int(torch.multinomial(odds, 1, generator=self.generator))

    def several(self, n: int, count: int) -> list[int]:
        """Different whole numbers in [0, n), in random order."""
        order = torch.randperm(n, generator=self.generator, device="cpu")
        return [int(i) for i in order[:count]]


@contextlib.contextmanager
def drawn_from(*key: object, devices: Sequence[int] = ()) -> Iterator[None]:
    """Constructors and random layers draw from a keyed stream; the global ones are put back.

    devices: GPUs whose generators are seeded too.
    """
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(number(*key))
        for device in devices:
            torch.cuda.default_generators[device].manual_seed(number(*key))
        yield
