"""Captions that are held out: what stays, and the words they leave."""

import pytest
import torch

from mxmclr_plugin.data.dataset import MultifoldDataset
from mxmclr_plugin.data.held_out_captions import hold_out_captions


def test_the_last_captions_become_words():
    texts = [["a", "b", "Red dog, runs"], ["c", "the dog"], ["only"], []]
    data = MultifoldDataset.from_lists({"text": texts, "x": [[[1.0]]] * 4})
    held = hold_out_captions(data, "text", 1)
    assert [list(held[k].observations["text"]) for k in range(4)] == [
        ["a", "b"],
        ["c"],
        ["only"],
        [],
    ]
    assert held.attributes == {
        "words of 1 held-out text caption": [("dog", "red", "runs"), ("dog", "the"), (), ()]
    }
    two = hold_out_captions(data, "text", 2)
    assert [len(two[k].observations["text"]) for k in range(4)] == [1, 1, 1, 0]
    assert two.attributes["words of 2 held-out text captions"][0] == ("b", "dog", "red", "runs")


def test_words_of_many_instances_do_not_count():
    data = MultifoldDataset.from_lists({"text": [["x", f"the word{k // 2}"] for k in range(40)]})
    (words,) = hold_out_captions(data, "text", 1).attributes.values()
    assert words == [(f"word{k // 2}",) for k in range(40)]


def test_mistakes():
    data = MultifoldDataset.from_lists({"x": [[[1.0], [2.0]]]})
    assert torch.is_tensor(data.stores["x"])
    with pytest.raises(ValueError, match="the records of 'x' are no captions"):
        hold_out_captions(data, "x", 1)
    with pytest.raises(ValueError, match="there is no modality 'text'"):
        hold_out_captions(data, "text", 1)
