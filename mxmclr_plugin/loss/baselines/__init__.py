"""Losses that the multifold hybrid loss is compared with, under the same call."""
