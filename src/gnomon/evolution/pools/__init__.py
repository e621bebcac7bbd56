"""Pools: where a search runs."""

from gnomon.evolution.pools.base import Pool
from gnomon.evolution.pools.here import Here
from gnomon.evolution.pools.ray import Ray
from gnomon.evolution.pools.torchrun import Torchrun

__all__ = ["Here", "Pool", "Ray", "Torchrun"]
