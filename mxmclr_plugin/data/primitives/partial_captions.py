"""Sentences that name some attributes of a class: "a tall thing", "something red and wide"."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import combinations, product

import numpy as np

from mxmclr_plugin.data.primitives.classes import PrimitiveClass, all_classes
from mxmclr_plugin.data.primitives.words import BOTH, COLOURS, HEIGHTS, RADII, SHAPES, fill

__all__ = [
    "ATTRIBUTES",
    "attribute_sets",
    "draw_partial_sentences",
    "fewest_partial",
    "partial_sentences",
]

ATTRIBUTES = ("shape", "colour", "height", "radius")
"""What a class is told by: fields of :class:`PrimitiveClass`."""

_NAMELESS = ("thing", "object", "item")

# {n} is the noun with its adjectives, {s} without, {l} a list of them, {a} the article.
_WITH_NOUN = (
    "{a} {n}",
    "{n}.",
    "this is {a} {n}.",
    "there is {a} {n}",
    "It is {a} {n}.",
    "here is {a} {n}.",
    "You see {a} {n}",
)
_WITH_LIST = (
    "the {s} is {l}",
    "{a} {s} that is {l}.",
    "This {s} is {l}.",
    "there is {a} {s}, {l}",
)
_WITHOUT_NOUN = ("something {l}", "it is {l}.", "something that is {l}")


def attribute_sets(described: int) -> list[tuple[str, ...]]:
    """All sets of so many of the :data:`ATTRIBUTES`."""
    return list(combinations(ATTRIBUTES, described))


def partial_sentences(kind: PrimitiveClass, named: Sequence[str]) -> list[str]:
    """Every sentence that names these attributes of a class and no other, in a fixed order."""
    nouns = SHAPES[kind.shape] if "shape" in named else _NAMELESS
    sentences = []
    for adjectives in _adjectives(kind, named):
        phrase = " ".join(adjectives)
        sentences += [
            fill(template, n=f"{phrase} {noun}".strip(), s=noun)
            for template, noun in product(_WITH_NOUN, nouns)
        ]
        for words in (adjectives, adjectives[::-1]) if adjectives else ():
            sentences += [
                fill(template, s=noun, l=_listed(words))
                for template, noun in product(_WITH_LIST, nouns)
            ]
            if "shape" not in named:
                sentences += [fill(template, l=_listed(words)) for template in _WITHOUT_NOUN]
    return list(dict.fromkeys(sentences))


@cache
def fewest_partial(described: int) -> int:
    """Sentences of so many attributes that there are about any class, of each set equally many."""
    kind = all_classes()[1]  # height and radius differ, the colour has one word
    sets = attribute_sets(described)
    return len(sets) * min(len(partial_sentences(kind, named)) for named in sets)


def draw_partial_sentences(
    kind: PrimitiveClass, count: int, described: int, generator: np.random.RandomState
) -> list[str]:
    """Some of the sentences that name so many attributes of a class, all different.

    Sets of attributes take turns, so that counts of sentences that name one or another differ by 1
    at most.

    Args:
        kind: The class.
        count: How many, at most :func:`fewest_partial`.
        described: Attributes that a sentence names, 1 to 3.
        generator: Source of randomness.
    """
    piles = []
    for named in attribute_sets(described):
        sentences = partial_sentences(kind, named)
        piles.append([sentences[k] for k in generator.permutation(len(sentences))])
    drawn: list[str] = []
    for turn in range(-(-count // len(piles))):
        drawn += [piles[k][turn] for k in generator.permutation(len(piles))]
    return drawn[:count]


def _adjectives(kind: PrimitiveClass, named: Sequence[str]) -> list[tuple[str, ...]]:
    """Adjectives as they stand before a noun: sizes, then the colour."""
    heights, radii = HEIGHTS[kind.height], RADII[kind.radius]
    sizes: list[tuple[str, ...]] = [()]
    if "height" in named and "radius" in named:
        sizes = [*product(heights, radii), *product(radii, heights)]
        if kind.height == kind.radius:
            sizes += [(word,) for word in BOTH[kind.height]]
    elif "height" in named:
        sizes = [(word,) for word in heights]
    elif "radius" in named:
        sizes = [(word,) for word in radii]
    if "colour" not in named:
        return sizes
    return [(*words, c) for words in sizes for c in COLOURS.get(kind.colour, (kind.colour,))]


def _listed(words: Sequence[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
