"""What both forms of Omniglot are read to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mxmclr_plugin.data.dataset import Store

__all__ = ["IMAGE_DRAWERS", "STROKE_DRAWERS", "Drawings"]

# Image k and stroke sequence k are one drawing. With drawers apart, what is found across modalities
# is the character and not the drawing.
IMAGE_DRAWERS = range(1, 11)
STROKE_DRAWERS = range(11, 21)


@dataclass(frozen=True)
class Drawings:
    """Images and strokes of characters.

    Attributes:
        characters: ``"alphabet/character"``.
        images: Images.
        image_members: Which of them are of each character.
        strokes: Sampled strokes.
        stroke_members: Which of them are of each character.
        evaluation: Characters of Omniglot's evaluation set, where background and evaluation are
            told apart and both are there; else empty.
    """

    characters: list[str]
    images: Store
    image_members: Sequence[Sequence[int]]
    strokes: Store
    stroke_members: Sequence[Sequence[int]]
    evaluation: frozenset[str] = field(default=frozenset())
