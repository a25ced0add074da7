"""The multifold hybrid loss under the name and with the call of lightly's losses."""

from mxmclr_plugin.loss.multifold_hybrid import MultifoldHybridLoss

__all__ = ["MultifoldHybridLoss"]
