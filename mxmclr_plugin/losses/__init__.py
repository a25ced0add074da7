"""The multifold hybrid loss, and the losses it is compared with."""

from mxmclr_plugin.losses import catalog  # noqa: F401 (registers the losses)
from mxmclr_plugin.losses.criterion import MultifoldHybridCriterion
from mxmclr_plugin.losses.functional import multifold_hybrid_loss
from mxmclr_plugin.losses.registry import LossInfo, build_loss, list_losses

__all__ = [
    "LossInfo",
    "MultifoldHybridCriterion",
    "build_loss",
    "list_losses",
    "multifold_hybrid_loss",
]
