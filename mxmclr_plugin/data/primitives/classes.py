"""The 756 classes of Text2Shape Primitives: 6 shapes x 14 colours x 3 heights x 3 radii."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

SHAPES = ("box", "cylinder", "pyramid", "cone", "torus", "sphere")

COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 128, 0),
    "blue": (0, 0, 255),
    "teal": (0, 128, 128),
    "beige": (225, 198, 153),
    "cyan": (0, 255, 255),
    "pink": (255, 192, 203),
    "yellow": (255, 255, 0),
    "orange": (255, 165, 0),
    "purple": (128, 0, 128),
    "brown": (165, 42, 42),
    "black": (0, 0, 0),
    "white": (255, 255, 255),
    "gray": (128, 128, 128),
}
"""RGB of each colour, 0 to 255, as CSS names them; but for beige, which the noise of a sample would
make white there."""

SIZES = (0.2, 0.5, 1.0)
"""Heights and radii as shares of the largest."""


@dataclass(frozen=True)
class PrimitiveClass:
    """One class.

    Attributes:
        shape: One of :data:`SHAPES`.
        colour: One of :data:`COLOURS`.
        height: Index in :data:`SIZES`.
        radius: Index in :data:`SIZES`.
    """

    shape: str
    colour: str
    height: int
    radius: int

    @property
    def name(self) -> str:
        """A name that no other class has: ``cone-red-h50-r100``."""
        height, radius = (round(100 * SIZES[k]) for k in (self.height, self.radius))
        return f"{self.shape}-{self.colour}-h{height}-r{radius}"


def all_classes() -> list[PrimitiveClass]:
    """All classes, in a fixed order."""
    sizes = range(len(SIZES))
    return [PrimitiveClass(*values) for values in product(SHAPES, COLOURS, sizes, sizes)]
