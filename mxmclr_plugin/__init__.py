"""Multifold contrastive learning: losses, samplers, towers and a fair comparison."""

__version__ = "0.1.0"
