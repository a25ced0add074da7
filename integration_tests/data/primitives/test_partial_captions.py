"""Partial sentences read with the table of words of ``test_captions.py``."""

import re
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from data.primitives.test_captions import read

from mxmclr_plugin.data.primitives.captions import (
    draw_partial_sentences,
    fewest_partial,
    partial_sentences,
)
from mxmclr_plugin.data.primitives.classes import all_classes

ATTRIBUTES = ("shape", "colour", "height", "radius")
SETS = [named for k in (1, 2, 3) for named in combinations(ATTRIBUTES, k)]


def said(kind, sentence):
    """Attributes that a sentence names; all that it says is true of the class."""
    values = {what: read(sentence)[what] for what in ATTRIBUTES}
    named = tuple(what for what in ATTRIBUTES if values[what])
    assert all(values[what] == {getattr(kind, what)} for what in named), sentence
    return named


@pytest.mark.parametrize("named", SETS, ids="-".join)
def test_each_says_what_is_named_and_nothing_else(named):
    for kind in all_classes()[::13]:
        sentences = partial_sentences(kind, named)
        assert len(set(sentences)) == len(sentences)
        for sentence in sentences[:: 1 + len(sentences) // 60]:
            assert said(kind, sentence) == named


@pytest.mark.parametrize("named", SETS, ids="-".join)
def test_articles_and_spelling(named):
    for kind in all_classes()[::11]:
        text = "\n".join(partial_sentences(kind, named))
        assert not re.search(r"\b[Aa] [aeiou]|\b[Aa]n [^aeiou]|[{}]|  | ,|\.\.|^ |and and", text)


def test_sentences_that_are_expected():
    (kind,) = (k for k in all_classes() if k.name == "cone-red-h100-r100")
    assert "a tall thing" in partial_sentences(kind, ["height"])
    assert "something red and wide" in partial_sentences(kind, ["colour", "radius"])
    assert "a wide cone" in partial_sentences(kind, ["shape", "radius"])
    assert "this is an object" not in partial_sentences(kind, ["shape"])
    assert "there is a large red object" in partial_sentences(kind, ["colour", "height", "radius"])


@pytest.mark.parametrize("described", [1, 2, 3])
def test_sets_of_attributes_take_turns(described):
    sets = set(combinations(ATTRIBUTES, described))
    for kind in all_classes()[5::97]:
        whole = draw_partial_sentences(
            kind, fewest_partial(described), described, np.random.RandomState(3)
        )
        assert len(set(whole)) == len(whole) == fewest_partial(described)
        for count in (1, len(sets), 2 * len(sets) + 1, len(whole)):
            # The same draw, cut: fewer sentences are a part of more.
            drawn = draw_partial_sentences(kind, count, described, np.random.RandomState(3))
            assert drawn == whole[:count]
            counts = Counter(said(kind, sentence) for sentence in drawn)
            assert set(counts) <= sets
            assert max(counts.values()) == -(-count // len(sets))
            assert sum(counts.values()) == count
        other = draw_partial_sentences(kind, len(whole), described, np.random.RandomState(4))
        assert other != whole


def test_every_class_has_so_many():
    for described in (1, 2, 3):
        sets = list(combinations(ATTRIBUTES, described))
        for kind in all_classes():
            if kind.colour not in {"red", "gray"}:  # others have one word, as red has
                continue
            fewest = min(len(partial_sentences(kind, named)) for named in sets)
            assert len(sets) * fewest >= fewest_partial(described)
