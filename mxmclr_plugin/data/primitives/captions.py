"""Sentences about a class, from templates and synonyms: of all or of some of its attributes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from itertools import combinations, product

import numpy as np

from mxmclr_plugin.data.primitives.classes import PrimitiveClass, all_classes

_HEIGHTS = (
    ("short", "low", "squat"),
    ("medium-height", "mid-height", "half-height"),
    ("tall", "high", "towering"),
)
_RADII = (
    ("thin", "narrow", "slim"),
    ("medium-width", "mid-width", "half-width"),
    ("wide", "broad", "thick"),
)
_BOTH = (
    ("small", "tiny", "little"),
    ("medium-sized", "mid-sized", "average-sized"),
    ("large", "big", "huge"),
)
"""Words for a class whose height and radius are the same step."""

_SHAPES = {
    "box": ("box", "block", "cuboid"),
    "cylinder": ("cylinder", "round column", "drum"),
    "pyramid": ("pyramid", "square pyramid", "pyramid shape"),
    "cone": ("cone", "round cone", "cone shape"),
    "torus": ("torus", "ring", "donut"),
    "sphere": ("sphere", "ball", "sphere shape"),
}
_COLOURS = {"gray": ("gray", "grey")}
"""Colours with more words than their name."""


def _fill(template: str, **words: str) -> str:
    """Fills a template, whose ``{a}`` becomes the article of the word behind it."""
    before, article, after = template.partition("{a} ")
    if article:
        noun_phrase = after.format(**words)
        return before.format(**words) + ("an " if noun_phrase[0] in "aeiou" else "a ") + noun_phrase
    return template.format(**words)


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
    colours = _COLOURS.get(kind.colour, (kind.colour,))
    things = list(product(colours, _SHAPES[kind.shape]))
    sentences = [
        _fill(template, h=h, r=r, c=c, s=s)
        for template, (c, s), h, r in product(
            _TWO_SIZES, things, _HEIGHTS[kind.height], _RADII[kind.radius]
        )
    ]
    if kind.height == kind.radius:
        sentences += [
            _fill(template, b=b, c=c, s=s)
            for template, (c, s), b in product(_ONE_SIZE, things, _BOTH[kind.height])
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


ATTRIBUTES = ("shape", "colour", "height", "radius")
"""What tells classes apart: fields of :class:`PrimitiveClass`."""

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
    nouns = _SHAPES[kind.shape] if "shape" in named else _NAMELESS
    sentences = []
    for adjectives in _adjectives(kind, named):
        phrase = " ".join(adjectives)
        sentences += [
            _fill(template, n=f"{phrase} {noun}".strip(), s=noun)
            for template, noun in product(_WITH_NOUN, nouns)
        ]
        for words in (adjectives, adjectives[::-1]) if adjectives else ():
            sentences += [
                _fill(template, s=noun, l=_listed(words))
                for template, noun in product(_WITH_LIST, nouns)
            ]
            if "shape" not in named:
                sentences += [_fill(template, l=_listed(words)) for template in _WITHOUT_NOUN]
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
    heights, radii = _HEIGHTS[kind.height], _RADII[kind.radius]
    sizes: list[tuple[str, ...]] = [()]
    if "height" in named and "radius" in named:
        sizes = [*product(heights, radii), *product(radii, heights)]
        if kind.height == kind.radius:
            sizes += [(word,) for word in _BOTH[kind.height]]
    elif "height" in named:
        sizes = [(word,) for word in heights]
    elif "radius" in named:
        sizes = [(word,) for word in radii]
    if "colour" not in named:
        return sizes
    return [(*words, c) for words in sizes for c in _COLOURS.get(kind.colour, (kind.colour,))]


def _listed(words: Sequence[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def retrieval_ceiling(kinds: Sequence[PrimitiveClass], described: int) -> tuple[float, float]:
    """Expected R@1, in percent, of a reader who knows the class of each grid and what words mean.

    A sentence that fits m classes is of each of them with equal probability, so the first grid is
    right with probability 1 / m. For a grid, the reader takes first a sentence that fits as few
    classes as any that fits this one. The second figure is for as many sentences a class as there
    are sets of attributes, or more; with fewer it is not reached.

    Args:
        kinds: Classes in the gallery, each with equally many grids, and equally many sentences of
            each set of attributes.
        described: Attributes that a sentence names, 1 to 3.

    Returns:
        Text to shape, where sentences are ranked against grids, and shape to text.
    """
    values = [
        [tuple(getattr(kind, name) for name in named) for kind in kinds]
        for named in attribute_sets(described)
    ]
    fitting = [Counter(of_set) for of_set in values]
    right = np.array(
        [
            [1 / count[of_class] for of_class in of_set]
            for count, of_set in zip(fitting, values, strict=True)
        ]
    )  # (sets, classes)
    return 100 * float(right.mean()), 100 * float(right.max(axis=0).mean())
