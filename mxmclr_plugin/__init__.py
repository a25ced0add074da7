"""Multifold contrastive learning: losses, samplers, towers and a fair comparison."""

from mxmclr_plugin.integrations.registration import register
from mxmclr_plugin.loss import (
    MultifoldHybridLoss,
    build_loss,
    list_losses,
    multifold_hybrid_loss,
    multifold_hybrid_parts,
)

__version__ = "0.1.0"

__all__ = [
    "MultifoldHybridLoss",
    "build_loss",
    "list_losses",
    "multifold_hybrid_loss",
    "multifold_hybrid_parts",
    "register",
]
