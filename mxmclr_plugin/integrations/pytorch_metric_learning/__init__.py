"""Losses and wrappers for pytorch-metric-learning."""
