"""Words for what a class is: three for each value, but one for most colours."""

from __future__ import annotations

__all__ = ["BOTH", "COLOURS", "HEIGHTS", "RADII", "SHAPES", "fill"]

HEIGHTS = (
    ("short", "low", "squat"),
    ("medium-height", "mid-height", "half-height"),
    ("tall", "high", "towering"),
)
RADII = (
    ("thin", "narrow", "slim"),
    ("medium-width", "mid-width", "half-width"),
    ("wide", "broad", "thick"),
)
BOTH = (
    ("small", "tiny", "little"),
    ("medium-sized", "mid-sized", "average-sized"),
    ("large", "big", "huge"),
)
"""Words for a class whose height and radius are the same step."""

SHAPES = {
    "box": ("box", "block", "cuboid"),
    "cylinder": ("cylinder", "round column", "drum"),
    "pyramid": ("pyramid", "square pyramid", "pyramid shape"),
    "cone": ("cone", "round cone", "cone shape"),
    "torus": ("torus", "ring", "donut"),
    "sphere": ("sphere", "ball", "sphere shape"),
}
COLOURS = {"gray": ("gray", "grey")}
"""Colours with more words than their name."""


def fill(template: str, **words: str) -> str:
    """Fills a template, whose ``{a}`` becomes the article of the word behind it."""
    before, article, after = template.partition("{a} ")
    if article:
        noun_phrase = after.format(**words)
        return before.format(**words) + ("an " if noun_phrase[0] in "aeiou" else "a ") + noun_phrase
    return template.format(**words)
