"""The multifold hybrid loss, and the losses it is compared with."""

from mxmclr_plugin.loss import catalog  # noqa: F401 (registers the losses)
from mxmclr_plugin.loss.functional import multifold_hybrid_loss
from mxmclr_plugin.loss.multifold_hybrid import MultifoldHybridCriterion
from mxmclr_plugin.loss.registry import LossInfo, build_loss, list_losses

__all__ = [
    "LossInfo",
    "MultifoldHybridCriterion",
    "build_loss",
    "list_losses",
    "multifold_hybrid_loss",
]
