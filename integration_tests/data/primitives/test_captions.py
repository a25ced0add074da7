"""Sentences read with a table of words that was written down independently of the templates."""

import re

import numpy as np
import pytest

from mxmclr_plugin.data.primitives.captions import FEWEST, all_sentences, draw_sentences
from mxmclr_plugin.data.primitives.classes import COLOURS, all_classes

WORDS = {
    "shape": {
        "box": "box block cuboid",
        "cylinder": "cylinder column drum",
        "pyramid": "pyramid",
        "cone": "cone",
        "torus": "torus ring donut",
        "sphere": "sphere ball",
    },
    "colour": {**{colour: colour for colour in COLOURS}, "gray": "gray grey"},
    "height": {
        0: "short low squat",
        1: "medium-height mid-height half-height",
        2: "tall high towering",
    },
    "radius": {
        0: "thin narrow slim",
        1: "medium-width mid-width half-width",
        2: "wide broad thick",
    },
    "both": {
        0: "small tiny little",
        1: "medium-sized mid-sized average-sized",
        2: "large big huge",
    },
}


def read(sentence):
    """What a sentence says: a set of values for each of shape, colour, height and radius."""
    words = set(re.findall(r"[a-z-]+", sentence.lower()))
    said = {
        what: {value for value, synonyms in table.items() if words & set(synonyms.split())}
        for what, table in WORDS.items()
    }
    both = said.pop("both")
    said["height"] |= both
    said["radius"] |= both
    return said


@pytest.fixture(scope="module")
def sentences():
    return {kind: all_sentences(kind) for kind in all_classes()}


def test_each_says_its_class_and_nothing_else(sentences):
    for kind, of_class in sentences.items():
        for sentence in of_class[:: 1 + len(of_class) // 40]:
            assert read(sentence) == {
                "shape": {kind.shape},
                "colour": {kind.colour},
                "height": {kind.height},
                "radius": {kind.radius},
            }, sentence


def test_none_twice_in_a_class_or_in_two(sentences):
    every = [sentence for of_class in sentences.values() for sentence in of_class]
    assert len(set(every)) == len(every)


def test_there_are_enough(sentences):
    assert min(map(len, sentences.values())) == FEWEST
    assert FEWEST >= 254


def test_articles_and_spelling(sentences):
    for of_class in sentences.values():
        text = "\n".join(of_class)
        assert not re.search(r"\b[Aa] [aeiou]|\b[Aa]n [^aeiou]|[{}]|  | ,|\.\.", text)


def test_forms_vary(sentences):
    kind = next(kind for kind in sentences if (kind.height, kind.radius) == (2, 0))
    drawn = draw_sentences(kind, 254, np.random.RandomState(0))
    assert len(set(drawn)) == 254
    assert any(sentence[0].isupper() for sentence in drawn)
    assert any(sentence[0].islower() for sentence in drawn)
    assert 0.2 < np.mean([sentence.endswith(".") for sentence in drawn]) < 0.8
    # Every word in the table for this class is used, in either order.
    words = " ".join(drawn).split()
    for synonym in ("tall", "high", "towering", "thin", "narrow", "slim"):
        assert any(word.strip(".,") == synonym for word in words)
    assert any(s.find("tall") > s.find("thin") > -1 for s in drawn)
    assert any(s.find("thin") > s.find("tall") > -1 for s in drawn)
    assert drawn != draw_sentences(kind, 254, np.random.RandomState(1))
