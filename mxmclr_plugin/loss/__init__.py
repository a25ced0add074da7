"""The multifold hybrid loss, and the losses it is compared with."""

from mxmclr_plugin.loss.functional import (
    HybridLossParts,
    multifold_hybrid_loss,
    multifold_hybrid_parts,
)
from mxmclr_plugin.loss.multifold_hybrid import MultifoldHybridLoss
from mxmclr_plugin.loss.multimodal import MultimodalLoss
from mxmclr_plugin.loss.registry import build_loss, list_losses, loss_positives

__all__ = [
    "HybridLossParts",
    "MultifoldHybridLoss",
    "MultimodalLoss",
    "build_loss",
    "list_losses",
    "loss_positives",
    "multifold_hybrid_loss",
    "multifold_hybrid_parts",
]
