"""Omniglot: handwritten characters, as pictures and as the strokes that they were drawn with."""
