"""Where a search runs, by name."""

from __future__ import annotations

from gnomon.evolution import Here, Pool, Ray, Torchrun

POOLS = ("here", "ray", "torchrun")


def pool_of(name: str, address: str | None = None) -> Pool:
    """A pool that is still to be entered.

    address: of a Ray cluster. Raises ValueError for another pool with one.
    """
    if address is not None and name != "ray":
        raise ValueError(f"an address is that of a Ray cluster: the pool '{name}' has none")
    if name == "ray":
        return Ray(address)
    return Torchrun() if name == "torchrun" else Here()
