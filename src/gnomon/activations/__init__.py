"""Activations and norms that start as the identity and turn on as they learn (P-activations)."""

from gnomon.activations.gate import Gated, gates, without_decay
from gnomon.activations.p_activation import PActivation
from gnomon.activations.p_batch_norm import PBatchNorm

__all__ = ["Gated", "PActivation", "PBatchNorm", "gates", "without_decay"]
