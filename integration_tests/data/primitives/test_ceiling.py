"""The ceiling against readers who look at every sentence and grid of a data set."""

import re
from itertools import combinations

import numpy as np
import pytest
import torch
from data.primitives.test_captions import read

from mxmclr_plugin.data.primitives.build import primitives
from mxmclr_plugin.data.primitives.captions import retrieval_ceiling
from mxmclr_plugin.data.primitives.classes import COLOURS, SHAPES, PrimitiveClass, all_classes
from mxmclr_plugin.retrieval.metrics import retrieval_metrics

FIELDS = {"shape": SHAPES, "colour": tuple(COLOURS), "height": range(3), "radius": range(3)}


def one_hot(said):
    return [float(value in said[name]) for name, values in FIELDS.items() for value in values]


@pytest.mark.parametrize(
    ("described", "captions", "held_out"),
    [
        (3, 8, "combinations"),
        (2, 6, "combinations"),
        (1, 4, "colours"),
        (3, 4, "shapes"),
        (2, 6, None),
    ],
)
def test_a_reader_of_words_reaches_it(tmp_path, described, captions, held_out):
    data = primitives(
        tmp_path,
        resolution=24,
        samples=1,
        captions=captions,
        described=described,
        held_out=held_out,
    )
    to_shape, to_text = (float(x) for x in re.findall(r"\d+\.\d\d", data.notes[-1]))

    test = data["test"]
    kinds = [all_classes()[k] for k in test.ids]
    grids = torch.tensor(
        [one_hot({name: {getattr(kind, name)} for name in FIELDS}) for kind in kinds]
    )
    said = [[read(text) for text in test[k].observations["text"]] for k in range(len(test))]
    texts = torch.tensor([one_hot(sentence) for of_class in said for sentence in of_class])
    text_ids = torch.from_numpy(np.repeat(test.ids, captions))
    # A cosine is highest for all grids that have everything that was said, and equal for these.
    figures = retrieval_metrics(texts, grids, text_ids, torch.from_numpy(test.ids))
    assert figures["r@1"] == pytest.approx(to_shape, abs=0.006)

    # The other way: sentences that fit, of these those that fit the fewest grids.
    fits = (texts @ grids.T == texts.sum(1, keepdim=True)).numpy()  # (texts, grids)
    fewest = np.where(fits, fits.sum(1)[:, None], len(grids)).min(0)  # (grids,)
    rates = []
    for k in range(len(grids)):
        first = fits[:, k] & (fits.sum(1) == fewest[k])
        rates.append((text_ids.numpy()[first] == test.ids[k]).mean())
    assert 100 * np.mean(rates) == pytest.approx(to_text, abs=0.006)


def test_by_hand():
    red, blue, wide = (
        PrimitiveClass("box", "red", 0, 0),
        PrimitiveClass("box", "blue", 0, 0),
        PrimitiveClass("box", "red", 0, 2),
    )
    # shape and height fit all three; colour: 2, 1, 2; radius: 2, 2, 1.
    to_shape = (2 * 3 * 1 / 3 + (1 / 2 + 1 + 1 / 2) + (1 / 2 + 1 / 2 + 1)) / 12
    to_text = (1 / 2 + 1 + 1) / 3
    assert retrieval_ceiling([red, blue, wide], 1) == pytest.approx((100 * to_shape, 100 * to_text))


def test_all_but_one_attribute_of_all_classes():
    # Who does not hear the shape has 6 to choose from, or 14 colours, 3 heights, 3 radii.
    expected = 100 * np.mean([1 / 6, 1 / 14, 1 / 3, 1 / 3]), 100 / 3
    assert retrieval_ceiling(all_classes(), 3) == pytest.approx(expected)
    assert len(list(combinations(FIELDS, 3))) == 4
