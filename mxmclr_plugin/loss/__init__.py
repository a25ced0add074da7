"""The multifold hybrid loss, and the losses it is compared with."""

from mxmclr_plugin.loss import catalog  # noqa: F401 (registers the losses)
from mxmclr_plugin.loss.functional import (
    HybridLossParts,
    multifold_hybrid_loss,
    multifold_hybrid_parts,
)
from mxmclr_plugin.loss.multifold_hybrid import MultifoldHybridLoss
from mxmclr_plugin.loss.multimodal import MultimodalLoss
from mxmclr_plugin.loss.registry import LossInfo, build_loss, list_losses

__all__ = [
    "HybridLossParts",
    "LossInfo",
    "MultifoldHybridLoss",
    "MultimodalLoss",
    "build_loss",
    "list_losses",
    "multifold_hybrid_loss",
    "multifold_hybrid_parts",
]
