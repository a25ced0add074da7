"""Omniglot: handwritten characters, as images and as the strokes that they were drawn with."""

from mxmclr_plugin.data.omniglot.build import omniglot

__all__ = ["omniglot"]
