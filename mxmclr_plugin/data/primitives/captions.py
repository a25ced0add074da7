"""Sentences that say all about a class, from templates and synonyms."""

from __future__ import annotations

from itertools import product

import numpy as np

from mxmclr_plugin.data.primitives.classes import PrimitiveClass
from mxmclr_plugin.data.primitives.words import BOTH, COLOURS, HEIGHTS, RADII, SHAPES, fill

__all__ = ["FEWEST", "all_sentences", "draw_sentences"]

# {a} is the article of the word behind it.
_TWO_SIZES = (
    "{a} {h} {r} {c} {s}.",
    "{a} {r} {h} {c} {s}",
    "{a} {r}, {h} {s} in {c}",
    "{a} {c} {s} that is {h} and {r}.",
    "the {s} is {c}, {h} and {r}",
    "the {c} {s} is {r} and {h}.",
    "this is {a} {c} {s}, {h} and {r}",
    "This {s} is {h}, {r} and {c}.",
    "{c} {s}, {h}, {r}",
    "there is {a} {h} {r} {s} colored {c}",
    "it is {a} {r} {c} {s} and it is {h}",
    "The color of this {h} and {r} {s} is {c}.",
)
_ONE_SIZE = (
    "{a} {b} {c} {s}.",
    "the {s} is {b} and {c}",
    "this is {a} {b} {s} in {c}",
    "{c} {s}, {b}",
    "There is {a} {c} {s} that is {b}.",
)

FEWEST = len(_TWO_SIZES) * 3**3
"""Sentences that there are about any class: templates, and three words for each of three things."""


def all_sentences(kind: PrimitiveClass) -> list[str]:
    """Every sentence that the templates make of a class, each once, in a fixed order."""
    colours = COLOURS.get(kind.colour, (kind.colour,))
    things = list(product(colours, SHAPES[kind.shape]))
    sentences = [
        fill(template, h=h, r=r, c=c, s=s)
        for template, (c, s), h, r in product(
            _TWO_SIZES, things, HEIGHTS[kind.height], RADII[kind.radius]
        )
    ]
    if kind.height == kind.radius:
        sentences += [
            fill(template, b=b, c=c, s=s)
            for template, (c, s), b in product(_ONE_SIZE, things, BOTH[kind.height])
        ]
    return list(dict.fromkeys(sentences))


def draw_sentences(kind: PrimitiveClass, count: int, generator: np.random.RandomState) -> list[str]:
    """Some of the sentences about a class, all different.

    Args:
        kind: The class.
        count: How many, at most :data:`FEWEST`.
        generator: Source of randomness.
    """
    sentences = all_sentences(kind)
    return [sentences[k] for k in generator.permutation(len(sentences))[:count]]
