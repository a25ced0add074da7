"""Multifold data sets, samplers and batches."""
