"""The multifold hybrid loss for sentence-transformers' trainer."""

from mxmclr_plugin.integrations.sentence_transformers.loss import MultifoldHybridSentenceLoss

__all__ = ["MultifoldHybridSentenceLoss"]
