"""Omniglot: handwritten characters, as images and as the strokes that they were drawn with."""
