"""The multifold hybrid loss, and the losses it is compared with."""

from mxmclr_plugin.loss.functional import multifold_hybrid_loss
from mxmclr_plugin.loss.multifold_hybrid import MultifoldHybridCriterion
from mxmclr_plugin.loss.registry import build_loss, list_losses, loss_positives

__all__ = [
    "MultifoldHybridCriterion",
    "build_loss",
    "list_losses",
    "loss_positives",
    "multifold_hybrid_loss",
]
